"""A saved posterior draws, predicts and trains on as the one that was saved."""

from __future__ import annotations

import pickle
import random
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoGuideList, AutoNormal
from pyro.nn import PyroModule

import pyro_vrnn as vrnn
from pyro_vrnn.archives import DamagedArchiveError, read_archive, write_archive
from pyro_vrnn.infer import (
    AutoDropConnect,
    AutoMeanFieldNormal,
    AutoMultiplicativeNormal,
    AutoSpikeAndSlab,
    fit,
    load_posterior,
    posterior_facts,
    save_posterior,
)
from pyro_vrnn.infer.posterior_files import FORMAT, VERSION
from tests.infer.cases import by_hand, small
from tests.test_archives import FILES, bombs

nn, models = vrnn.nn, vrnn.models


def regression(**options):
    rnn = nn.LSTM(8, 5, 2, bidirectional=True, prior_scale={"weight_hh": 0.3})
    head = {"weight": torch.rand(2, 10) + 0.5, "bias": 2.0}
    model = models.SequenceRegression(
        rnn, 2, tau=torch.tensor([1.0, 2.0]), prior_scale=head, **options
    )
    return model, torch.randn(4, 6, 8), torch.randn(4, 2)


def double():
    rnn = nn.RNN(8, 5, nonlinearity="relu", bias=False, batch_first=True, dtype=torch.float64)
    model = models.SequenceRegression(rnn, 1, learn_tau=True, num_data=9)
    return model, torch.randn(4, 6, 8).double(), torch.randn(4, 1).double()


def words():
    table = nn.Embedding(7, 8, padding_idx=0, prior_loc=0.5, prior_scale=torch.rand(8) + 0.5)
    model = models.SequenceClassification(
        nn.GRU(8, 5, prior_loc={"bias": -1.0}), 3, embedding=table
    )
    return model, torch.arange(24).reshape(4, 6) % 7, torch.arange(4) % 3


def forecaster():
    model = models.Forecaster(nn.GRU(2, 5), 3, lag=4, num_data=20, overlap=3.0)
    series = torch.randn(30, 2).cumsum(0) + 50
    model.fit_scaling(series)
    return model, torch.stack([series[i : i + 10] for i in range(4)]), torch.randn(4, 3) + 50


CASES = {"regression": regression, "double": double, "words": words, "forecaster": forecaster}
GUIDES = {
    "slab": AutoSpikeAndSlab,
    "masks-only": partial(AutoSpikeAndSlab, scale=0.0, scope="sequence", gates="tied"),
    "learned": partial(AutoSpikeAndSlab, drop_prob={"weight_hh": 0.4, "head.weight": 0.1},
                       scale={"bias": 0.2}, learn_scale=True, scope="sequence"),
    "drop-connect": partial(AutoDropConnect, drop_prob=0.1),
    "mean-field": AutoMeanFieldNormal,
    "multiplicative": partial(AutoMultiplicativeNormal, alpha=0.5, scope="sequence"),
}  # fmt: skip


def saved(tmp_path):
    model, x, y = small(tau=2.0)
    guide = AutoSpikeAndSlab(model)
    guide(x, y)
    return save_posterior(tmp_path / "p", model, guide)


cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
guides = pytest.mark.parametrize("make", GUIDES.values(), ids=GUIDES)


def train(model, guide, x, y, seed, epochs=3):
    optimizer = partial(torch.optim.Adam, lr=0.05)
    result = fit(
        model, guide, [(x, y)], num_epochs=epochs, optimizer=optimizer, seed=seed, progress=False
    )
    return result.loss


def draws(guide):
    pyro.set_rng_seed(5)
    with vrnn.infer.function_draws():
        return guide()


def predictions(model, guide, x):
    pyro.set_rng_seed(6)
    return Predictive(model, guide=guide, num_samples=3)(x)["obs"]


def assert_same(a, b):
    assert list(a) == list(b)
    assert all(torch.equal(a[name], b[name]) for name in a)


@guides
@cases
def test_same_draws_predictions_and_training(case, make, tmp_path):
    model, x, y = case()
    guide = make(model)
    train(model, guide, x, y, seed=1)
    folder = save_posterior(tmp_path / "p", model, guide)
    again, twin = load_posterior(folder)
    assert (type(again), type(twin)) == (type(model), type(guide))
    assert twin.sites == guide.sites
    assert_same(model.state_dict(), again.state_dict())
    assert_same(guide.state_dict(), twin.state_dict())
    assert_same(draws(guide), draws(twin))
    assert torch.equal(predictions(model, guide, x), predictions(again, twin, x))
    assert train(model, guide, x, y, seed=2) == train(again, twin, x, y, seed=2)
    assert_same(guide.state_dict(), twin.state_dict())


@pytest.mark.parametrize("local", [False, True], ids=["global-store", "module-local"])
def test_trained_by_svi(local, tmp_path):
    def go_on(model, guide, x, y):
        pyro.set_rng_seed(3)
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), TraceMeanField_ELBO())
        return [svi.step(x, y) for _ in range(4)]

    with pyro.settings.context(module_local_params=local):
        model, x, y = small(learn_tau=True)
        guide = AutoSpikeAndSlab(model, learn_scale=True)
        go_on(model, guide, x, y)
        again, twin = load_posterior(save_posterior(tmp_path / "p", model, guide))
        assert again.tau.item() == model.tau.item() != 1.0
        assert_same(draws(guide), draws(twin))
        assert go_on(model, guide, x, y) == go_on(again, twin, x, y)


def test_the_file_reads_without_the_training_code(tmp_path):
    model, x, y = small(learn_tau=True)
    guide = AutoSpikeAndSlab(model, drop_prob=0.25, learn_scale=True)
    train(model, guide, x, y, seed=1)
    folder = save_posterior(tmp_path / "p", model, guide, facts={"data": "noise"})
    found = read_archive(folder, format=FORMAT, max_version=VERSION)
    q = guide.distribution("rnn.weight_hh_l0")
    assert torch.equal(found.tensors["rnn.weight_hh_l0.loc"], q.loc)
    assert torch.equal(found.tensors["rnn.weight_hh_l0.scale"], q.scale)
    assert torch.equal(found.tensors["model.tau"], model.tau)
    site = found.facts["sites"]["rnn.weight_hh_l0"]
    assert site == {
        "kind": "weight_hh", "drop_prob": 0.25, "alpha": 0.0, "scale": 0.01, "scope": "batch",
        "suits_sequences": True, "shape": [20, 5], "block_shape": [5, 1],
    }  # fmt: skip
    facts = posterior_facts(folder)
    assert facts == found.facts
    assert facts["facts"] == {"data": "noise"}
    assert facts["guide"]["class"] == "AutoSpikeAndSlab"
    assert facts["versions"]["torch"] == torch.__version__


def test_no_data_is_in_the_file(tmp_path):
    model, x, y = words()
    guide = AutoSpikeAndSlab(model)
    guide(x, y, lengths=torch.tensor([2, 6, 3, 1]))
    inputs = posterior_facts(save_posterior(tmp_path / "p", model, guide))["inputs"]["tensors"]
    assert inputs == {
        "args.0": {"shape": [4, 6], "dtype": "int64", "fill": 6},
        "args.1": {"shape": [4], "dtype": "int64", "fill": 2},
        "kwargs.lengths": {"shape": [4], "dtype": "int64", "fill": 6},
    }
    load_posterior(tmp_path / "p")


def test_a_loaded_guide_can_be_pickled(tmp_path):
    _, guide = load_posterior(saved(tmp_path))
    assert_same(draws(guide), draws(pickle.loads(pickle.dumps(guide))))


def test_generators_are_left_alone(tmp_path):
    model, x, y = words()
    guide = AutoSpikeAndSlab(model)
    guide(x, y)
    folder = save_posterior(tmp_path / "p", model, guide)

    def numbers():
        return torch.rand(2).tolist(), random.random(), np.random.rand()  # noqa: NPY002

    vrnn.runs.set_seed(4)
    expected = numbers()
    vrnn.runs.set_seed(4)
    load_posterior(folder)
    assert numbers() == expected


def test_after_a_change_of_type(tmp_path):
    model, x, y = small(dtype=torch.float32)
    guide = AutoSpikeAndSlab(model)
    guide(x, y)
    model.double()
    guide.double()
    again, twin = load_posterior(save_posterior(tmp_path / "p", model, guide))
    assert twin()["head.weight"].dtype == torch.float64
    assert torch.equal(predictions(model, guide, x.double()), predictions(again, twin, x.double()))


def test_a_model_written_as_a_function(tmp_path):
    x, y = torch.randn(4, 6, 8), torch.randn(4)
    guide = AutoSpikeAndSlab(by_hand, block_shapes={"head": (1,)})
    guide(x, y)
    folder = save_posterior(tmp_path / "p", by_hand, guide)
    with pytest.raises(ValueError, match=r"Expected model=, .* it is a by_hand and no plain model"):
        load_posterior(folder)
    model, twin = load_posterior(folder, by_hand)
    assert model is by_hand
    assert_same(draws(guide), draws(twin))


class Net(PyroModule):
    """A module with a prior on some weights, a plain layer and one with running statistics."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 9)
        self.norm = PyroModule[torch.nn.BatchNorm1d](9)
        self.last = PyroModule[torch.nn.Linear](9, 1)

    def forward(self, x, y=None):
        mean = self.last(self.norm(self.first(x)))
        with pyro.plate("data", len(x)):
            return pyro.sample("obs", dist.Normal(mean[:, 0], 1.0), obs=y)


def test_a_module_of_one_s_own(tmp_path):
    model, x, y = Net(), torch.randn(4, 8), torch.randn(4)
    guide = AutoSpikeAndSlab(model)
    train(model, guide, x, y, seed=1)
    folder = save_posterior(tmp_path / "p", model, guide)
    with pytest.raises(ValueError, match=r"Expected model=, .* it is a Net and no plain model"):
        load_posterior(folder)
    again, twin = load_posterior(folder, Net())
    assert_same(model.state_dict(), again.state_dict())
    assert_same(draws(guide), draws(twin))
    assert train(model, guide, x, y, seed=2) == train(again, twin, x, y, seed=2)


def test_a_given_model_gets_the_parameters(tmp_path):
    model, x, y = double()
    guide = AutoSpikeAndSlab(model)
    train(model, guide, x, y, seed=1)
    folder = save_posterior(tmp_path / "p", model, guide)
    fresh, _, _ = double()
    again, _ = load_posterior(folder, fresh)
    assert again is fresh
    assert fresh.tau.item() == model.tau.item()


def with_one_more():
    model, _, _ = small()

    def program(x, y=None):
        pyro.sample("extra", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        return model(x, y)

    return program


def with_one_less():
    return models.SequenceRegression(nn.LSTM(8, 5, bias=False, dtype=torch.float64), 1)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (with_one_more, r"site 'extra' of the model to be absent, as saved, got of shape \(2,\)"),
        (with_one_less, r"site 'rnn.bias_ih_l0' .* to be of shape \(20,\), as saved, got absent"),
        (lambda: models.SequenceRegression(nn.GRU(8, 5, dtype=torch.float64), 1),
         r"site 'rnn.weight_ih_l0' .* to be of shape \(20, 8\), as saved, got of shape \(15, 8\)"),
        (lambda: models.SequenceRegression(nn.LSTM(3, 5, dtype=torch.float64), 1),
         r"like those the saved guide was built with, got ValueError: Expected x of shape"),
        (lambda: small(learn_tau=True)[0], "Expected a model with the saved parameters, got Error"),
    ],
    ids=["more", "less", "shape", "inputs", "parameters"],
)  # fmt: skip
def test_another_model_is_refused(model, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_posterior(saved(tmp_path), model())


def test_a_weight_of_another_kind_is_refused(tmp_path):
    x, y = torch.randn(4, 3), torch.randn(4)

    def program(kind):
        def model(x, y=None):
            prior = dist.Normal(torch.zeros(3, 3), 1.0).to_event(2)
            record = vrnn.distributions.WeightSite(kind)
            w = pyro.sample("w", prior, infer={"weight_site": record})
            pyro.sample("obs", dist.Normal((x @ w).sum(-1), 1.0).to_event(1), obs=y)

        return model

    guide = AutoSpikeAndSlab(program("weight_hh"))
    guide(x, y)
    folder = save_posterior(tmp_path / "p", program("weight_hh"), guide)
    with pytest.raises(ValueError, match=r"Expected the saved record .* of another kind"):
        load_posterior(folder, program("embedding"))


def test_guides_refused(tmp_path):
    model, _, _ = small()
    with pytest.raises(RuntimeError, match="Expected a guide that has its sites"):
        save_posterior(tmp_path / "p", model, AutoSpikeAndSlab(model))
    names = "AutoDropConnect, AutoMeanFieldNormal, AutoMultiplicativeNormal, AutoSpikeAndSlab"
    with pytest.raises(TypeError, match=f"guide to be one of {names}, got AutoNormal"):
        save_posterior(tmp_path / "p", model, AutoNormal(model))
    assert not (tmp_path / "p").exists()


class Shifted(PyroModule):
    """A network beside a latent that is no weight."""

    def __init__(self):
        super().__init__()
        self.net = Net()

    def forward(self, x, y=None):
        pyro.sample("shift", dist.Normal(0.0, 1.0))
        return self.net(x, y)


def parts(model):
    guide = AutoGuideList(model)
    guide.append(AutoNormal(poutine.block(model, expose=["shift"])))
    guide.append(AutoSpikeAndSlab(poutine.block(model, hide=["shift"])))
    guide(torch.randn(4, 8), torch.randn(4))
    return guide


def test_a_part_of_a_list_of_guides_is_refused(tmp_path):
    """What was written could not be loaded with the model's own class."""
    model = Shifted()
    guide = parts(model)
    state = torch.get_rng_state()
    message = "all latents of the model, got none of 'shift': of a list of guides, keep the state"
    with pytest.raises(ValueError, match=message):
        save_posterior(tmp_path / "p", model, guide[1])
    assert torch.equal(state, torch.get_rng_state())
    with pytest.raises(TypeError, match="got AutoGuideList: of others, keep the state dicts"):
        save_posterior(tmp_path / "p", model, guide)
    assert not (tmp_path / "p").exists()


def test_state_dicts_of_a_list_of_guides():
    """The remedy that the refusal names."""
    model, again, x = Shifted(), Shifted(), torch.randn(4, 8)
    guide, twin = parts(model), parts(again)
    again.load_state_dict(model.state_dict())
    twin.load_state_dict(guide.state_dict())
    drawn = []
    for each in (guide, twin):
        pyro.set_rng_seed(1)
        drawn.append(each(x))
    assert_same(*drawn)


def test_facts_refused(tmp_path):
    model, x, y = small()
    (guide := AutoSpikeAndSlab(model))(x, y)
    with pytest.raises(TypeError, match=r"facts\['facts'\]\['when'\] to be a number, string"):
        save_posterior(tmp_path / "p", model, guide, facts={"when": print})


def tied():
    model = models.SequenceClassification(nn.GRU(8, 8), 7, embedding=nn.Embedding(7, 8))
    model.head.tie("weight", model.embedding, "weight")
    return model, torch.arange(24).reshape(4, 6) % 7, torch.arange(4) % 3


def test_tied_weights_need_the_model(tmp_path):
    model, x, y = tied()
    guide = AutoSpikeAndSlab(model)
    guide(x, y)
    folder = save_posterior(tmp_path / "p", model, guide)
    with pytest.raises(ValueError, match="Expected model="):
        load_posterior(folder)
    _, twin = load_posterior(folder, tied()[0])
    assert_same(draws(guide), draws(twin))


def drop(facts, *path):
    *above, last = path
    for key in above:
        facts = facts[key]
    del facts[last]


@pytest.mark.parametrize(
    "change",
    [
        *(lambda f, t, part=part: drop(f, part) for part in ("guide", "sites", "model", "inputs")),
        lambda f, t: drop(f, "sites", "head.bias", "shape"),
        lambda f, t: f["guide"].update({"class": "os.system"}),
        lambda f, t: f["model"].update({"class": "os.system"}),
        lambda f, t: drop(f, "model", "options", "out_features"),
        lambda f, t: f["sites"]["head.bias"].update(shape=[3]),
        lambda f, t: f["inputs"]["tensors"]["args.0"].update(dtype="load"),
        lambda f, t: t.pop("head.bias.loc"),
        lambda f, t: t.pop("head.bias.scale"),
    ],
    ids=["guide", "sites", "model", "inputs", "a-shape", "guide-class", "model-class", "an-option",
         "other-shape", "dtype", "loc", "scale"],
)  # fmt: skip
def test_a_whole_archive_of_other_content(change, tmp_path):
    found = read_archive(saved(tmp_path), format=FORMAT, max_version=VERSION)
    change(found.facts, found.tensors)
    write_archive(tmp_path / "p", found.tensors, found.facts, format=FORMAT, version=VERSION)
    with pytest.raises(DamagedArchiveError, match="Expected "):
        load_posterior(tmp_path / "p")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("index", range(10))
def test_a_pickle_is_refused(index, name, tmp_path):
    marker, folder = tmp_path / "marker", saved(tmp_path)
    (folder / name).write_bytes(bombs(marker)[index])
    for load in (load_posterior, posterior_facts):
        with pytest.raises(DamagedArchiveError, match=f"Expected '{name}' in"):
            load(folder)
    assert not marker.exists()


@pytest.mark.parametrize("index", range(10))
def test_a_pickle_in_the_folder_s_place(index, tmp_path):
    marker, folder = tmp_path / "marker", tmp_path / "p"
    folder.write_bytes(bombs(marker)[index])
    with pytest.raises(DamagedArchiveError, match="got the file"):
        load_posterior(folder)
    assert not marker.exists()


def test_another_model_s_guide_is_refused(tmp_path):
    model, x, y = small()
    guide = AutoSpikeAndSlab(model)
    guide(x, y)
    wider = vrnn.models.SequenceRegression(vrnn.nn.LSTM(8, 6, dtype=torch.float64), 1)
    deeper = vrnn.models.SequenceRegression(vrnn.nn.LSTM(8, 5, 2, dtype=torch.float64), 1)
    with pytest.raises(ValueError, match=r"weight 'rnn.weight_ih_l0' of shape \(24, 8\), got \(20"):
        save_posterior(tmp_path / "p", wider, guide)
    with pytest.raises(ValueError, match=r"weight 'rnn.weight_ih_l1' of shape .*, got none"):
        save_posterior(tmp_path / "p", deeper, guide)
    assert not (tmp_path / "p").exists()
