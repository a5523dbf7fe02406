"""Laws that every guide of weights obeys, and what sets each of them apart."""

from __future__ import annotations

import copy
import pickle
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, TraceMeanField_ELBO
from torch.distributions import kl_divergence

import pyro_vrnn as vrnn
from pyro_vrnn.distributions import BlockDropout, MultiplicativeNormal, SpikeAndSlab
from pyro_vrnn.distributions.lazy_rows import LazyRows
from pyro_vrnn.infer import (
    AutoDropConnect,
    AutoMeanFieldNormal,
    AutoMultiplicativeNormal,
    AutoSpikeAndSlab,
)
from tests.infer.cases import by_hand, classifier, dropped, small, standard_error

FAMILY = {
    "spike-and-slab": AutoSpikeAndSlab,
    "dropout-limit": partial(AutoSpikeAndSlab, scale=0),
    "drop-connect": AutoDropConnect,
    "drop-connect-limit": partial(AutoDropConnect, scale=0),
    "mean-field": AutoMeanFieldNormal,
    "mean-field-fixed": partial(AutoMeanFieldNormal, learn_scale=False),
    "multiplicative": AutoMultiplicativeNormal,
    "multiplicative-sequence": partial(AutoMultiplicativeNormal, scope="sequence"),
    "multiplicative-learned": partial(AutoMultiplicativeNormal, learn_scale=True),
}
family = pytest.mark.parametrize("Guide", FAMILY.values(), ids=FAMILY)
settings = pytest.mark.parametrize("local", [False, True], ids=["global-store", "module-local"])


def built(Guide, *args, model=None, **options):
    guide = Guide(model, **options)
    guide(*args)
    return guide


def values(guide):
    return {name: p.detach().clone() for name, p in guide.named_parameters()}


def assert_equal(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)


class Trainer:
    """Steps with seeds of their own, so that steps of others in between change nothing."""

    def __init__(self, model, guide, *data):
        optimizer = pyro.optim.Adam({"lr": 0.05})
        self.svi = SVI(model, guide, optimizer, vrnn.infer.TraceExactKL_ELBO())
        self.data, self.count = data, 0

    def step(self):
        pyro.set_rng_seed(self.count)
        self.count += 1
        return self.svi.step(*self.data)


@family
def test_the_mean_starts_at_torch_s_initialisation(Guide):
    model, x, y = small()
    given = {}

    def init(site):
        given[site["name"]] = torch.randn(site["fn"].event_shape, dtype=torch.float64)
        return given[site["name"]]

    found = built(Guide, x, y, model=model, init_loc_fn=init).mean()
    assert found.keys() == given.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, given[name], rtol=1e-12, atol=1e-12)


@family
def test_loss_is_that_of_pyro_s_mean_field_elbo(Guide):
    """So the KL is counted once and is the registered one; both see the same draw."""
    model, x, y = small(num_data=40)
    guide = built(Guide, x, y, model=model)
    losses = []
    for elbo in (vrnn.infer.TraceExactKL_ELBO(), TraceMeanField_ELBO()):
        pyro.set_rng_seed(1)
        losses.append(elbo.differentiable_loss(model, guide, x, y))
    torch.testing.assert_close(*losses, rtol=1e-12, atol=1e-9)


@family
@settings
@pytest.mark.parametrize("Other", [AutoSpikeAndSlab, None], ids=["other-kind", "same-kind"])
def test_two_guides_on_one_model_train_as_if_alone(Guide, Other, local):
    with pyro.settings.context(module_local_params=local):
        model, x, y = small()
        pyro.set_rng_seed(5)
        alone = Trainer(model, Guide(model), x, y)
        losses = [alone.step() for _ in range(4)]
        expected = values(alone.svi.guide)
        pyro.clear_param_store()

        pyro.set_rng_seed(5)
        ours = Trainer(model, Guide(model), x, y)
        other = Trainer(model, (Other or Guide)(model), x, 100 * y)
        together = []
        for _ in range(4):
            together.append(ours.step())
            other.step()
        assert together == losses
        assert_equal(values(ours.svi.guide), expected)


@family
@pytest.mark.parametrize("how", ["deepcopy", "pickle", "state-dict"])
def test_copies_hold_the_trained_values(Guide, how):
    model, x, y = small()
    trainer = Trainer(model, Guide(model), x, y)
    trainer.step()
    guide = trainer.svi.guide
    if how == "state-dict":
        twin = built(Guide, x, y, model=model)
        twin.load_state_dict(guide.state_dict())
    else:
        twin = copy.deepcopy(guide) if how == "deepcopy" else pickle.loads(pickle.dumps(guide))
    assert_equal(twin.mean(), guide.mean())
    trainer.step()
    assert not torch.equal(twin.mean()["head.weight"], guide.mean()["head.weight"])


@family
@pytest.mark.parametrize("parallel", [False, True], ids=["sequential", "parallel"])
def test_predictive(Guide, parallel):
    model, x, y = small()
    guide = built(Guide, x, y, model=model)
    found = Predictive(model, guide=guide, num_samples=5, parallel=parallel)(x)
    assert found["loc"].shape == (5, 4, 1)
    assert (found["loc"].std(0) > 0).all()


@family
def test_predict_has_the_moments_of_predictive(Guide):
    model, x, y = small()
    guide = built(Guide, x, y, model=model)
    n = 400
    draws = Predictive(model, guide=guide, num_samples=n, parallel=True)(x)["loc"]
    found = vrnn.infer.predict(model, guide, x, num_samples=n, seed=1, progress=False)
    error = (2 * draws.var(0) / n).sqrt()
    assert ((found.mean - draws.mean(0)).abs() < 4.26 * error).all()


@family
def test_one_draw_serves_all_time_steps(Guide):
    """The draw of each site is held for the whole call: replaying its trace gives the same."""
    model, x, y = small()
    guide = built(Guide, x, y, model=model)
    guided = poutine.trace(guide).get_trace(x, y)
    assert sum(site["type"] == "sample" for site in guided.nodes.values()) == len(guide.sites)
    first, again = (poutine.replay(model, trace=guided)(x) for _ in range(2))
    assert torch.equal(first, again)


@family
def test_every_parameter_is_trained(Guide):
    model, ids, y = classifier("gru", dtype=torch.float64)
    guide = built(Guide, ids, y, model=model)
    before = values(guide)
    Trainer(model, guide, ids, y).step()
    still = [name for name, value in values(guide).items() if torch.equal(value, before[name])]
    assert still == []


def test_drop_connect_drops_single_weights():
    p, draws = 0.3, 300
    model, ids, y = classifier()
    guide = built(AutoDropConnect, ids, y, model=model, drop_prob=p)
    with torch.no_grad():
        for parameter in guide.locs.parameters():
            parameter.fill_(100.0)
    sites = ["rnn.weight_ih_l1_reverse", "rnn.weight_hh_l0", "embedding.weight", "head.weight"]
    zeros = [dropped(guide, name, draws) for name in sites]
    for mask in zeros:  # of each weight of a kind, by itself
        count = mask.numel()
        assert abs(mask.double().mean() - p) < 4.26 * standard_error(p, count)
        for pair in (mask[:, 1:] & mask[:, :-1], mask[..., 1:] & mask[..., :-1]):
            error = standard_error(p * p, pair.numel() / 2)
            assert abs(pair.double().mean() - p * p) < 4.26 * error
    assert not dropped(guide, "rnn.bias_hh_l0", 30).any()
    assert guide.sites["rnn.bias_hh_l0"].drop_prob == 0


def test_drop_connect_drops_few_inputs_and_outputs_too():
    model = vrnn.models.SequenceRegression(vrnn.nn.LSTM(1, 4), 1)
    guide = built(AutoDropConnect, torch.zeros(2, 3, 1), torch.zeros(2, 1), model=model)
    assert guide.sites["rnn.weight_ih_l0"].drop_prob == 0.25
    assert guide.sites["head.weight"].drop_prob == 0.25
    assert guide.sites["head.bias"].drop_prob == 0.0


def test_drop_connect_has_no_sequence_scope():
    model, _, _ = small()
    with pytest.raises(TypeError, match="scope"):
        AutoDropConnect(model, scope="sequence")
    columns = AutoSpikeAndSlab(
        model, scope="sequence", drop_prob=0.5, block_shapes={"rnn.weight_hh_l0": (1, 1)}
    )
    with pytest.raises(ValueError, match=r"a mask of single weights has no form M diag\(z\)"):
        columns(torch.zeros(4, 6, 8).double(), torch.zeros(4, 1).double())


def test_mean_field_is_a_normal_for_each_weight():
    model, x, y = small()
    guide = built(AutoMeanFieldNormal, x, y, model=model, scale=0.2)
    q = guide.distribution("rnn.weight_hh_l0")
    plain = dist.Normal(q.loc, q.scale).to_event(2)
    prior = dist.Normal(torch.zeros_like(q.loc), 0.7).to_event(2)
    draw = q.sample()
    torch.testing.assert_close(q.log_prob(draw), plain.log_prob(draw))
    ours = kl_divergence(q, prior)
    torch.testing.assert_close(ours, kl_divergence(plain, prior))
    assert q.scale.shape == q.loc.shape
    assert q.scale.requires_grad
    torch.testing.assert_close(q.scale, torch.full_like(q.loc, 0.2))


def test_mean_field_needs_no_record():
    x, y = torch.randn(4, 3, 8), torch.randn(4)
    guide = built(AutoMeanFieldNormal, x, y, model=by_hand)
    assert list(guide.sites) == ["w_ih", "w_hh", "head"]
    with pytest.raises(ValueError, match=r"known weight, got 'head': give it a WeightSite"):
        AutoDropConnect(by_hand)(x, y)
    with pytest.raises(ValueError, match=r"known weight, got 'head': give its block shape"):
        AutoMultiplicativeNormal(by_hand)(x, y)


def test_multiplicative_factors_are_shared_by_a_block():
    model, ids, y = classifier(dtype=torch.float64)
    guide = built(AutoMultiplicativeNormal, ids, y, model=model, alpha=0.5, scale=1e-6)
    with torch.no_grad():
        for parameter in guide.locs.parameters():
            parameter.fill_(1.0)
    n = 400
    with pyro.plate("draws", n):
        z = guide()["rnn.weight_hh_l1"].unflatten(1, (4, 5))  # (n, gates, H, columns)
    assert (z - z[:, :, :1]).abs().max() < 1e-4
    factors = z[:, :, 0].flatten(1)
    error = (factors.var(0) / n).sqrt()
    assert ((factors.mean(0) - 1).abs() < 4.26 * error).all()
    assert ((factors.var(0) - 0.5).abs() < 4.26 * 0.5 * (2 / n) ** 0.5).all()
    correlation = torch.corrcoef(factors.T).fill_diagonal_(0)
    assert correlation.abs().max() < 5 / n**0.5  # 380 of them


def test_multiplicative_factors_of_each_sequence():
    """Every sequence sees weights of its own, M diag(z_n) + sigma E, as a run of it alone shows."""
    model, ids, y = classifier("gru", dtype=torch.float64)
    guide = built(AutoMultiplicativeNormal, ids, y, model=model, scope="sequence")
    guided = poutine.trace(guide).get_trace(ids, y)
    found = poutine.replay(model, trace=guided)(ids, y)
    for n in range(len(ids)):
        data = {}
        for name, site in guide.sites.items():
            value = guided.nodes[name]["value"]
            if site.scope == "batch":
                data[name] = value
            elif site.kind == "embedding":
                every = torch.arange(site.shape[0]).expand(len(ids), -1)
                data[name] = value.rows(every, 0)[n]
            else:
                data[name] = value.masked_weight(len(ids)).dense()[n]
        alone = poutine.condition(model, data=data)(ids[n : n + 1])
        torch.testing.assert_close(found[n : n + 1], alone, rtol=1e-10, atol=1e-10)
    masks = guided.nodes["rnn.weight_hh_l0"]["value"].masked_weight(4).mask
    assert len(masks.unique()) == masks.numel()


LAZY = {name: FAMILY[name] for name in FAMILY if name != "multiplicative-sequence"}


@pytest.mark.parametrize("Guide", LAZY.values(), ids=LAZY)
def test_a_table_is_drawn_row_by_row(Guide):
    model, ids, y = classifier()
    guide = built(Guide, ids, y, model=model)
    assert isinstance(guide(ids, y)["embedding.weight"], LazyRows)


@pytest.mark.parametrize("strategy", ["auto", "batched", "loop"])
def test_drop_connect_without_noise_is_no_mask_of_columns(strategy):
    """Its draws are not those that one network could share, so `folded` is not for it."""
    model, x, y = small()
    guide = built(AutoDropConnect, x, y, model=model, scale=0)
    options = dict(num_samples=50, seed=1, progress=False)
    found = vrnn.infer.predict(model, guide, x, strategy=strategy, **options)
    assert found.strategy == ("batched" if strategy == "auto" else strategy)
    with pytest.raises(ValueError, match=r"blocks of whole columns or rows for strategy='folded'"):
        vrnn.infer.predict(model, guide, x, strategy="folded", **options)


TYPES = {
    "spike-and-slab": (AutoSpikeAndSlab, {}, SpikeAndSlab),
    "limit": (AutoSpikeAndSlab, {"scale": 0}, BlockDropout),
    "drop-connect-limit": (AutoDropConnect, {"scale": 0}, BlockDropout),
    "multiplicative": (AutoMultiplicativeNormal, {}, MultiplicativeNormal),
}


@pytest.mark.parametrize(("Guide", "options", "expected"), TYPES.values(), ids=TYPES)
def test_distribution_of_a_site(Guide, options, expected):
    model, x, y = small()
    guide = built(Guide, x, y, model=model, **options)
    assert type(guide.distribution("rnn.weight_hh_l0")) is expected


def test_near_spike_counts_the_blocks_within_the_distance():
    model, ids, y = classifier(dtype=torch.float64)
    guide = built(AutoSpikeAndSlab, ids, y, model=model, scale={"weight_hh": 0.1, "linear": 0})
    with torch.no_grad():
        for parameter in guide.locs.parameters():
            parameter.fill_(1.0)
        guide.distribution("rnn.weight_hh_l0").loc[:5, :2] = 0.1  # d = sqrt(5)
        guide.distribution("embedding.weight").loc[3] = 0.0
    found = guide.near_spike()
    assert set(found) == {"rnn.weight_hh_l0", "embedding.weight"}
    assert found["embedding.weight"] == (0.0, 1, 7)
    least, near, blocks = found["rnn.weight_hh_l0"]
    assert (near, blocks) == (2, 20)
    assert least == pytest.approx(5**0.5)
    assert guide.near_spike(2.0).keys() == {"embedding.weight"}


def test_drop_connect_is_near_the_spike_at_its_start():
    model, x, y = small()
    found = built(AutoDropConnect, x, y, model=model).near_spike()
    assert "rnn.weight_hh_l0" in found


REFUSALS = {
    "multiplicative-limit": (
        partial(AutoMultiplicativeNormal, scale=0),
        r"Expected scale to be a positive number, got 0",
    ),
    "alpha": (
        partial(AutoMultiplicativeNormal, alpha={"bias": -0.5}),
        r"Expected alpha\['bias'\] to be a number of at least 0, got -0.5",
    ),
    "mean-field-limit": (
        partial(AutoMeanFieldNormal, scale={"bias": 0.0}, learn_scale=False),
        r"Expected scale\['bias'\] to be a positive number, got 0.0",
    ),
    "drop-connect": (
        partial(AutoDropConnect, drop_prob=1.0),
        r"Expected drop_prob in \[0, 1\), got 1.0: everything would be dropped",
    ),
}


@pytest.mark.parametrize(("make", "message"), REFUSALS.values(), ids=REFUSALS)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make(by_hand)


NAMES = {
    "kind-not-there": (
        dict(drop_prob={"embedding": 0.5}),
        r"names in drop_prob to be sites or kinds .*, got 'embedding'\.",
    ),
    "torch-s-name": (
        dict(drop_prob={"weight_hh_l0": 0.5}),
        r"got 'weight_hh_l0'; did you mean 'rnn.weight_hh_l0' or 'weight_hh'\?",
    ),
    "bias": (
        dict(drop_prob={"bias": 0.5}),
        r"drop_prob of the bias 'rnn.bias_ih_l0' to be 0, got 0.5: biases are never dropped",
    ),
}


@pytest.mark.parametrize(("options", "message"), NAMES.values(), ids=NAMES)
def test_names_in_a_mapping(options, message):
    model, x, y = small()
    with pytest.raises(ValueError, match=message):
        AutoSpikeAndSlab(model, **options)(x, y)


def test_an_observation_taken_for_a_weight_is_named_as_such():
    def model(y=None):
        with pyro.plate("data", 3):
            pyro.sample("y", dist.Normal(0.0, 1.0), obs=y)

    with pytest.raises(ValueError, match=r"If it is an observation, call the guide with the obs"):
        AutoMeanFieldNormal(model)()


def test_names_of_alpha_are_checked():
    model, x, y = small()
    with pytest.raises(ValueError, match=r"names in alpha .* got 'weights'"):
        AutoMultiplicativeNormal(model, alpha={"weights": 0.1})(x, y)
