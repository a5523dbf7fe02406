import json
import subprocess
import sys
import warnings
from functools import partial

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoGuideList, AutoNormal
from pyro.infer.autoguide.initialization import init_to_value
from pyro.poutine import block

import pyro_vrnn as vrnn
from pyro_vrnn import from_pyro_svi
from pyro_vrnn.runs import rng_state

IS_0 = int(az.__version__.split(".")[0]) < 1
ALL_GROUPS = [
    "log_likelihood",
    "observed_data",
    "posterior",
    "posterior_predictive",
    "sample_stats",
]


def groups_of(data):
    return sorted(data.groups() if IS_0 else data.children)


def shapes_of(data, group):
    return {name: dict(v.sizes) for name, v in data[group].data_vars.items()}


def plates(y, counts):
    """Weights, two plates, a latent per datum, deterministics in and out, counts."""
    w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([2, 3]).to_event(2))
    pyro.deterministic("norm", w.norm())
    with pyro.plate("columns", 3, dim=-1), pyro.plate("rows", 4, dim=-2):
        pyro.deterministic("shift", torch.zeros(1, 1), event_dim=0)
        pyro.sample("obs", dist.Normal(w.sum(), 1.0), obs=y)
    with pyro.plate("draw", 5):
        rate = pyro.sample("rate", dist.LogNormal(0.0, 1.0))
        pyro.sample("counts", dist.Poisson(rate), obs=counts)


PLATES_ARGS = (torch.zeros(4, 3), torch.arange(5.0))


@pytest.fixture
def plated():
    return plates, AutoNormal(plates)


@pytest.fixture
def recurrent():
    torch.manual_seed(0)
    model = vrnn.models.SequenceRegression(vrnn.nn.LSTM(2, 3), 1, num_data=12)
    guide = vrnn.infer.AutoSpikeAndSlab(model, scale=0.1)
    return model, guide, (torch.randn(6, 5, 2), torch.randn(6, 1))


def test_container_is_that_of_the_installed_arviz(conjugate):
    data = from_pyro_svi(conjugate.model, conjugate.guide, model_args=conjugate.args, num_samples=3)
    assert type(data).__name__ == ("InferenceData" if IS_0 else "DataTree")
    assert groups_of(data) == ALL_GROUPS


@pytest.mark.parametrize("num_samples", [3, 4, 5], ids=lambda s: f"S={s}")
def test_dims_are_chain_draw_plates_then_numbers(plated, num_samples):
    data = from_pyro_svi(*plated, model_args=PLATES_ARGS, num_samples=num_samples)
    sample = {"chain": 1, "draw": num_samples}
    grid = sample | {"rows": 4, "columns": 3}
    assert shapes_of(data, "posterior") == {
        "w": sample | {"w_dim_0": 2, "w_dim_1": 3},
        "norm": sample,
        "rate": sample | {"draw_dim": 5},
    }
    assert shapes_of(data, "posterior_predictive") == {
        "shift": grid,
        "obs": grid,
        "counts": sample | {"draw_dim": 5},
    }
    assert shapes_of(data, "log_likelihood") == {
        "obs": grid,
        "counts": sample | {"draw_dim": 5},
    }
    assert shapes_of(data, "observed_data") == {
        "obs": {"rows": 4, "columns": 3},
        "counts": {"draw_dim": 5},
    }
    densities = dict.fromkeys(["lp", "log_p__", "log_g__"], sample)
    assert shapes_of(data, "sample_stats") == densities | {"norm": sample | {"site": 2}}


def test_every_dim_has_a_coordinate(plated):
    data = from_pyro_svi(*plated, model_args=PLATES_ARGS, num_samples=3, index_origin=1)
    assert data["posterior"]["w_dim_1"].values.tolist() == [1, 2, 3]
    assert data["posterior"]["chain"].values.tolist() == [1]


def test_names_and_coordinates_may_be_given(plated):
    data = from_pyro_svi(
        *plated,
        model_args=PLATES_ARGS,
        num_samples=3,
        dims={"w": ["gate"], "obs": [None, "place"]},
        coords={"gate": ["r", "z"], "place": [10, 20, 30]},
    )
    w = data["posterior"]["w"]
    assert w.dims == ("chain", "draw", "gate", "w_dim_0")
    assert w.coords["gate"].values.tolist() == ["r", "z"]
    for group in ("log_likelihood", "posterior_predictive"):
        assert data[group]["obs"].dims == ("chain", "draw", "rows", "place")
        assert data[group]["obs"].coords["place"].values.tolist() == [10, 20, 30]


def test_coordinates_of_what_is_left_out_are_no_error(plated):
    data = from_pyro_svi(
        *plated,
        model_args=PLATES_ARGS,
        num_samples=2,
        posterior=["norm"],
        dims={"w": ["gate"]},
        coords={"gate": ["r", "z"]},
    )
    assert list(data["posterior"].data_vars) == ["norm"]


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        ({"posterior": False}, "posterior"),
        ({"posterior_predictive": False}, "posterior_predictive"),
        ({"log_likelihood": False}, "log_likelihood"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_groups_may_be_left_out(conjugate, options, missing):
    data = from_pyro_svi(
        conjugate.model, conjugate.guide, model_args=conjugate.args, num_samples=3, **options
    )
    assert groups_of(data) == [name for name in ALL_GROUPS if name != missing]


def test_keyword_arguments_of_the_model(conjugate):
    x, y = conjugate.args
    data = from_pyro_svi(
        conjugate.model, conjugate.guide, model_args=(x,), model_kwargs={"y": y}, num_samples=2
    )
    assert data["observed_data"]["obs"].values.tolist() == y.tolist()


def test_prior_draws_are_divided_likewise(conjugate):
    x, _ = conjugate.args
    prior = Predictive(conjugate.model, num_samples=7)(x)
    data = from_pyro_svi(
        conjugate.model, conjugate.guide, model_args=conjugate.args, num_samples=3, prior=prior
    )
    assert shapes_of(data, "prior") == {"w": {"chain": 1, "draw": 7, "w_dim_0": 3}}
    assert set(data["prior_predictive"].data_vars) == {"loc", "obs"}
    np.testing.assert_array_equal(data["prior"]["w"].values[0], prior["w"].numpy()[:, 0])


def test_history_of_a_fit(recurrent):
    model, guide, args = recurrent
    adam = partial(torch.optim.Adam, lr=0.01)
    result = vrnn.infer.fit(
        model, guide, [args] * 2, num_epochs=3, optimizer=adam, seed=11, progress=False
    )
    data = from_pyro_svi(model, guide, svi_result=result, model_args=args, num_samples=2, seed=5)
    svi = data["svi"]
    assert svi["elbo"].dims == ("step",)
    assert svi["elbo"].values.tolist() == result.elbo
    assert svi["epoch_loss"].dims == ("epoch",)
    assert svi["epoch_loss"].values.tolist() == result.epoch_loss
    assert svi.attrs["wall_time"] == result.wall_time
    assert (svi.attrs["fit_seed"], svi.attrs["seed"]) == (11, 5)
    kl = svi["kl"]
    assert kl.dims == ("step", "site")
    for name, values in result.kl.items():
        assert kl.sel(site=name).values.tolist() == values
    parts = svi["expected_log_likelihood"] - kl.sum("site")
    np.testing.assert_allclose(parts.values, result.elbo, rtol=1e-9)
    assert svi["gradient_norm"].values.tolist() == result.gradient_norm
    assert svi["learning_rate"].values.tolist() == [0.01] * 6
    assert "kl_weight" not in svi


def test_history_of_a_tempered_fit_with_held_out_scores(recurrent):
    """The ELBO is without the weight; the loss that was minimised is not."""
    model, guide, args = recurrent
    adam = partial(torch.optim.Adam, lr=0.01)
    result = vrnn.infer.fit(
        model, guide, [args], num_epochs=2, optimizer=adam, kl_weight=0.5, validation=[args],
        progress=False,
    )  # fmt: skip
    data = from_pyro_svi(model, guide, svi_result=result, model_args=args, num_samples=2)
    svi = data["svi"]
    assert svi["kl_weight"].values.tolist() == [0.5, 0.5]
    parts = svi["expected_log_likelihood"] - svi["kl"].sum("site")
    np.testing.assert_allclose(svi["elbo"].values, parts.values, rtol=1e-12)
    assert svi["held_out_nll"].dims == ("epoch",)
    assert svi["held_out_nll"].values.tolist() == result.validation["nll"]


def test_history_of_losses_and_a_guide_in_the_parameter_store(plated):
    model, guide = plated
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    losses = [svi.step(*PLATES_ARGS) for _ in range(3)]
    data = from_pyro_svi(model, guide, svi_result=losses, model_args=PLATES_ARGS, num_samples=2)
    assert data["svi"]["elbo"].values.tolist() == [-loss for loss in losses]


def test_attributes(recurrent):
    model, guide, args = recurrent
    data = from_pyro_svi(model, guide, model_args=args, num_samples=2, seed=3)
    for attrs in (data.attrs, data["posterior"].attrs):
        assert attrs["inference_library"] == "pyro"
        assert attrs["inference_library_version"] == pyro.__version__
        assert attrs["creation_library"] == "pyro_vrnn"
        assert (attrs["model"], attrs["guide"]) == ("SequenceRegression", "AutoSpikeAndSlab")
        assert attrs["seed"] == 3
        assert attrs["torch_version"].startswith(torch.__version__.split("+")[0])
        assert {"created_at", "creation_library_version"} <= set(attrs)
        expected = {name: site.drop_prob for name, site in guide.sites.items()}
        assert json.loads(attrs["drop_probs"]) == expected


def test_alphas_of_multiplicative_noise(recurrent):
    model, _, args = recurrent
    guide = vrnn.infer.AutoMultiplicativeNormal(model, alpha={"weight_hh": 0.5})
    guide(*args)
    data = from_pyro_svi(model, guide, model_args=args, num_samples=2)
    found = json.loads(data.attrs["alphas"])
    assert found == {name: site.alpha for name, site in guide.sites.items()}
    assert found["rnn.weight_hh_l0"] == 0.5
    assert "drop_probs" not in data.attrs


def test_drop_probs_of_a_guide_inside_a_list(recurrent):
    model, _, args = recurrent
    guide = AutoGuideList(model)
    guide.append(vrnn.infer.AutoSpikeAndSlab(block(model, hide=["head.bias"])))
    guide.append(AutoNormal(block(model, expose=["head.bias"])))
    data = from_pyro_svi(model, guide, model_args=args, num_samples=2)
    assert json.loads(data.attrs["drop_probs"])["rnn.weight_hh_l0"] == 0.25
    assert "head.bias" in data["posterior"].data_vars


def test_seed_fixes_the_draws(conjugate):
    runs = [
        from_pyro_svi(
            conjugate.model, conjugate.guide, model_args=conjugate.args, num_samples=3, seed=seed
        )["posterior_predictive"]["obs"].values
        for seed in (1, 1, 2)
    ]
    assert (runs[0] == runs[1]).all()
    assert (runs[0] != runs[2]).all()


@pytest.mark.parametrize("seed", [0, None], ids=["seed", "none"])
def test_a_seed_leaves_the_generators_as_they_were(seed, conjugate):
    """An export in the middle of a training; without a seed its draws are the generators'."""
    before, facts = rng_state()
    options = {"model_args": conjugate.args, "num_samples": 2, "prior": True, "seed": seed}
    from_pyro_svi(conjugate.model, conjugate.guide, **options)
    after, others = rng_state()
    assert torch.equal(after["torch"], before["torch"]) == (seed is not None)
    assert (torch.equal(after["numpy"], before["numpy"]), others) == (True, facts)
    assert torch.equal(after["python"], before["python"])


@pytest.mark.gpu
def test_a_seed_leaves_the_generators_of_the_gpu(conjugate):
    state = torch.cuda.get_rng_state()
    options = {"model_args": conjugate.args, "num_samples": 2, "seed": 0}
    from_pyro_svi(conjugate.model, conjugate.guide, **options)
    assert torch.equal(torch.cuda.get_rng_state(), state)


def test_integer_observations_stay_integers():
    def model(y):
        logits = pyro.sample("logits", dist.Normal(0.0, 1.0).expand([4]).to_event(1))
        with pyro.plate("data", len(y)):
            pyro.sample("obs", dist.Categorical(logits=logits), obs=y)

    data = from_pyro_svi(model, AutoNormal(model), model_args=(torch.arange(4),), num_samples=4)
    assert data["observed_data"]["obs"].dtype == np.int64
    assert data["posterior_predictive"]["obs"].dtype == np.int64


def test_tensors_of_any_device(recurrent, device):
    model, guide, args = recurrent
    model.to(device)
    args = tuple(a.to(device) for a in args)
    guide(*args)
    data = from_pyro_svi(model, guide.to(device), model_args=args, num_samples=2)
    assert np.isfinite(data["sample_stats"]["log_p__"].values).all()


def test_guides_of_one_class_keep_their_own_values(recurrent):
    # Pyro's store knows both by the name AutoNormal, and hands the second the first's values.
    model, _, args = recurrent
    trained, exported = [], []
    for lr in (0.1, 0.3):
        guide = AutoNormal(model, init_scale=1e-6)
        adam = partial(torch.optim.Adam, lr=lr)
        vrnn.infer.fit(
            model,
            guide,
            [args],
            num_epochs=1,
            optimizer=adam,
            elbo=Trace_ELBO(),
            progress=False,
        )
        trained.append(guide.locs.head.bias_unconstrained.detach().clone().numpy())
        data = from_pyro_svi(model, guide, model_args=args, num_samples=2)
        exported.append(data["posterior"]["head.bias"].values[0, 0])
    assert np.abs(trained[0] - trained[1]).min() > 0.1
    np.testing.assert_allclose(exported, trained, atol=1e-4)


def test_arviz_summarises_the_export(conjugate):
    data = from_pyro_svi(
        conjugate.model, conjugate.guide, model_args=conjugate.args, num_samples=100
    )
    table = az.summary(data)
    assert list(table.index) == ["w[0]", "w[1]", "w[2]"]
    mean, _ = conjugate.posterior()
    np.testing.assert_allclose(table["mean"].astype(float), mean.numpy(), atol=0.5)


def test_arviz_loo_of_the_export():
    # Exact leave-one-out of y_n ~ N(w, 1), w ~ N(0, 1): w | y_-n ~ N(sum_{m != n} y_m / N, 1 / N).
    num_data, num_samples = 20, 500
    y = torch.randn(num_data, generator=torch.Generator().manual_seed(0))

    def model(y):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("obs", dist.Normal(w, 1.0), obs=y)

    posterior_mean = y.sum() / (num_data + 1)
    guide = AutoNormal(model, init_loc_fn=init_to_value(values={"w": posterior_mean}))
    guide(y)
    guide.scales.w = torch.tensor((num_data + 1) ** -0.5)
    data = from_pyro_svi(model, guide, model_args=(y,), num_samples=num_samples, seed=0)
    result = az.loo(data, reff=1.0, pointwise=True)
    got = np.asarray(result.loo_i if IS_0 else result.elpd_i)
    others = (y.sum() - y) / num_data
    expected = dist.Normal(others, (1 + 1 / num_data) ** 0.5).log_prob(y).numpy()
    # The importance-weighted mean of p(y_n | w): its error is that of p / p_-n, with draws from q.
    pointwise = data["log_likelihood"]["obs"].values[0]  # (S, N)
    error = np.exp(-pointwise).std(0) / np.exp(-pointwise).mean(0) / num_samples**0.5
    assert np.abs((got - expected) / error).max() < 4.26


def test_import_is_light():
    code = (
        "import sys, pyro_vrnn; "
        "print([m for m in ('arviz', 'xarray', 'matplotlib') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_arviz_loo_of_a_model_that_fits_badly():
    """In float32 the weights of all draws but a few underflow, and ArviZ 0's loo was nan."""
    y = 4.0 + torch.randn(50, generator=torch.Generator().manual_seed(0))

    def model(y):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 50):
            pyro.sample("obs", dist.Normal(loc, 0.2), obs=y)

    def guide(y):
        pyro.sample("loc", dist.Normal(0.0, 1.0))

    data = from_pyro_svi(model, guide, model_args=(y,), num_samples=200, seed=0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*shape parameter of Pareto", UserWarning)
        result = az.loo(data, reff=1.0, pointwise=True)
    assert np.isfinite(np.asarray(result.loo_i if IS_0 else result.elpd_i)).all()
    assert data["log_likelihood"]["obs"].dtype == np.float64
