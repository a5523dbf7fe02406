import re

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Predictive
from pyro.infer.autoguide import AutoNormal

import pyro_vrnn as vrnn
from pyro_vrnn import from_pyro_svi

Z = 4.26


@pytest.fixture
def forecaster():
    torch.manual_seed(0)
    model = vrnn.models.Forecaster(vrnn.nn.GRU(1, 3), 2)
    guide = vrnn.infer.AutoSpikeAndSlab(model)
    args = torch.randn(4, 6, 1), torch.randn(4, 2)
    guide(*args)
    return model, guide, args


def test_prior_draws_have_the_prior_law(conjugate):
    x, _ = conjugate.args
    num_samples = 400
    data = from_pyro_svi(
        conjugate.model,
        conjugate.guide,
        model_args=conjugate.args,
        num_samples=num_samples,
        prior=True,
    )
    w = data["prior"]["w"].values[0]  # (S, 3)
    assert np.abs(w.mean(0)).max() < Z / num_samples**0.5
    obs = data["prior_predictive"]["obs"].values[0]  # (S, N)
    variance = (x**2).sum(1).numpy() + 0.25
    assert np.abs(obs.var(0, ddof=1) / variance - 1).max() < Z * (2 / (num_samples - 1)) ** 0.5
    loc = data["prior_predictive"]["loc"].values[0]
    np.testing.assert_allclose(loc, w @ x.numpy().T, rtol=1e-10)


def test_prior_draws_leave_the_posteriors_as_they_are(conjugate):
    options = {"model_args": conjugate.args, "num_samples": 3, "seed": 1}
    pair = (conjugate.model, conjugate.guide)
    plain, data = from_pyro_svi(*pair, **options), from_pyro_svi(*pair, prior=True, **options)
    assert (plain["posterior"]["w"].values == data["posterior"]["w"].values).all()


def test_prior_draws_of_a_network_are_function_draws():
    """A guide-free run of scope="sequence" models too: one weight, of the prior's scale."""
    model = vrnn.models.SequenceRegression(vrnn.nn.GRU(8, 4, prior_scale=0.5), 1)
    guide = vrnn.infer.AutoSpikeAndSlab(model, scope="sequence")
    args = torch.zeros(3, 5, 8), torch.zeros(3, 1)
    guide(*args)
    data = from_pyro_svi(model, guide, model_args=args, num_samples=60, prior=True)
    w = data["prior"]["rnn.weight_hh_l0"].values  # (1, S, 3, 4, 4)
    assert w.shape == (1, 60, 3, 4, 4)
    error = 0.5 / (2 * w.size) ** 0.5
    assert abs(w.std() - 0.5) < Z * error


def test_predictions_are_the_network_at_the_same_draws(forecaster):
    model, guide, args = forecaster
    new = torch.randn(3, 8, 1)
    data = from_pyro_svi(
        model,
        guide,
        model_args=args,
        num_samples=5,
        predictions_args=(new,),
        predictions_constant_data=True,
    )
    predicted = data["predictions"]
    assert dict(predicted["obs"].sizes) == {"chain": 1, "draw": 5, "sequence": 3, "horizon": 2}
    assert data["predictions_constant_data"]["x"].dims == ("sequence", "time", "feature")
    np.testing.assert_array_equal(data["predictions_constant_data"]["x"].values, new.numpy())
    draws = {
        name: torch.as_tensor(values.values[0]).reshape(5, *guide.sites[name].shape)
        for name, values in data["posterior"].data_vars.items()
    }
    expected = Predictive(model, posterior_samples=draws)(new)["loc"]
    np.testing.assert_allclose(predicted["loc"].values[0], expected.numpy(), rtol=1e-4, atol=1e-5)


def test_coordinates_of_the_trainings_sequences_are_not_those_of_others(forecaster):
    """N = N' here: sizes would not tell."""
    model, guide, args = forecaster
    data = from_pyro_svi(
        model,
        guide,
        model_args=args,
        num_samples=2,
        predictions_args=(args[0] + 1,),
        coords={"sequence": list("abcd"), "horizon": [1, 2]},
    )
    assert data["observed_data"]["sequence"].values.tolist() == list("abcd")
    assert data["predictions"]["sequence"].values.tolist() == [0, 1, 2, 3]
    assert data["predictions"]["horizon"].values.tolist() == [1, 2]


def test_dims_of_predictions_may_be_named_and_have_coordinates(forecaster):
    model, guide, args = forecaster
    new = torch.randn(3, 8, 1)
    data = from_pyro_svi(
        model,
        guide,
        model_args=args,
        num_samples=2,
        predictions_args=(new,),
        pred_dims={"obs": ["later"], "loc": ["later"]},
        coords={"later": [10, 20, 30]},
    )
    assert data["predictions"]["obs"].dims == ("chain", "draw", "later", "horizon")
    assert data["predictions"]["later"].values.tolist() == [10, 20, 30]


def test_predictions_made_by_the_caller(forecaster):
    model, guide, args = forecaster
    draws = torch.randn(7, 3, 2)
    data = from_pyro_svi(model, guide, model_args=args, num_samples=2, predictions={"obs": draws})
    obs = data["predictions"]["obs"]
    assert dict(obs.sizes) == {"chain": 1, "draw": 7, "sequence": 3, "horizon": 2}
    np.testing.assert_array_equal(obs.values[0], draws.numpy())


def test_constant_data_given_by_name(conjugate):
    x, _ = conjugate.args
    data = from_pyro_svi(
        conjugate.model,
        conjugate.guide,
        model_args=conjugate.args,
        num_samples=2,
        constant_data={"x": x, "period": 12},
        dims={"x": ["data", "column"]},
        coords={"column": ["a", "b", "c"]},
    )
    constant = data["constant_data"]
    assert constant["x"].sel(column="b").values.tolist() == x[:, 1].tolist()
    assert int(constant["period"]) == 12


def test_constant_data_are_the_arguments_that_are_no_observations(conjugate):
    x, y = conjugate.args
    data = from_pyro_svi(
        conjugate.model,
        conjugate.guide,
        model_args=(x,),
        model_kwargs={"y": y.clone()},
        num_samples=2,
        constant_data=True,
    )
    assert list(data["constant_data"].data_vars) == ["x"]


def shifted(x, y=None, extra=None):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("obs", dist.Normal(w + x, 1.0), obs=y)


def converted(x, y=None):
    shifted(x, y.double())


def named_as_its_site(target, obs):
    shifted(target, obs.double())


def one_ahead(series):
    shifted(series[:-1], series[1:])


def given_flat(x, y):
    shifted(x, y.reshape(-1))


VALUES = torch.arange(4.0)


@pytest.mark.parametrize(
    ("model", "args", "kept"),
    [
        (shifted, lambda: (VALUES, VALUES.clone()), ["x"]),
        (shifted, lambda: (VALUES, VALUES), ["x"]),
        (shifted, lambda: (VALUES, VALUES.clone(), VALUES.clone()), ["x", "extra"]),
        (shifted, lambda: (torch.arange(5.0)[:-1], torch.arange(5.0)[1:]), ["x"]),
        (shifted, lambda: (lambda s: (s[:-1], s[1:], s))(torch.arange(5.0)), ["x", "extra"]),
        (converted, lambda: (VALUES, VALUES.clone()), ["x"]),
        (named_as_its_site, lambda: (VALUES, VALUES.clone()), ["target"]),
        (one_ahead, lambda: (VALUES,), ["series"]),
        (given_flat, lambda: (VALUES, VALUES.reshape(2, 2)), ["x"]),
    ],
    ids=[
        "equal", "one-tensor", "three-equal", "views", "series-and-views", "converted", "site-name",
        "part", "reshaped",
    ],
)  # fmt: skip
def test_constant_data_are_told_from_observations_by_identity(model, args, kept):
    """Not by value: an input may equal the observations, or share their memory."""
    given = args()
    guide = AutoNormal(model)
    data = from_pyro_svi(model, guide, model_args=given, num_samples=2, constant_data=True)
    constant = data["constant_data"]
    assert list(constant.data_vars) == kept
    np.testing.assert_array_equal(constant[kept[0]].values, given[0].numpy())
    assert data["observed_data"]["obs"].ndim == 1


def test_a_networks_input_that_equals_its_observations_is_kept():
    torch.manual_seed(0)
    model = vrnn.models.LanguageModel(9, 4, 4)
    guide = vrnn.infer.AutoSpikeAndSlab(model, scale=0.1)
    ids = torch.zeros(3, 5, dtype=torch.long)
    data = from_pyro_svi(
        model,
        guide,
        model_args=(ids, ids, torch.tensor([5, 2, 3])),
        num_samples=2,
        constant_data=True,
    )
    assert list(data["constant_data"].data_vars) == ["x", "lengths"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"predictions_args": torch.zeros(3)},
            TypeError,
            "Expected predictions_args to be a tuple, got Tensor.",
        ),
        (
            {"predictions": {}, "predictions_args": ()},
            ValueError,
            "Expected predictions (draws) or predictions_args (what to draw them at), got both.",
        ),
        (
            {"predictions": {"v": torch.zeros(2)}},
            ValueError,
            "Expected the names in predictions to be sites of the model (w, loc, obs), got 'v'.",
        ),
        (
            {"predictions": {"obs": torch.zeros(2)}},
            ValueError,
            "Expected predictions['obs'] of shape (draws, data), got (2,).",
        ),
        (
            {"constant_data": 3},
            TypeError,
            "Expected constant_data to be a bool or a dict of arrays, got int.",
        ),
        (
            {"constant_data": {"x": torch.zeros(2)}, "dims": {"x": ["a", "b"]}},
            ValueError,
            "Expected at most 1 names in dims['x'], got ['a', 'b'].",
        ),
        (
            {"constant_data": {"x": torch.zeros(2)}, "dims": {"x": ["data"]}},
            ValueError,
            "Expected dim 'data' to have one size, got 6 and 2 (site 'x').",
        ),
        (
            {"log_likelihood": "token"},
            ValueError,
            "Expected log_likelihood to be one of",
        ),
    ],
    ids=["args", "both", "name", "shape", "type", "dims", "size", "log_likelihood"],
)
def test_arguments_are_checked(conjugate, options, error, message):
    options = {"model_args": conjugate.args, "num_samples": 2} | options
    with pytest.raises(error, match=re.escape(message)):
        from_pyro_svi(conjugate.model, conjugate.guide, **options)


def test_arguments_without_names_are_not_constant_data():
    def model(*args):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        pyro.sample("obs", dist.Normal(w, 1.0), obs=args[0])

    message = "Expected constant_data=True with a model whose arguments have names, got *args"
    with pytest.raises(ValueError, match=re.escape(message)):
        from_pyro_svi(
            model,
            AutoNormal(model),
            model_args=(torch.tensor(0.0),),
            num_samples=2,
            constant_data=True,
        )


def test_latents_of_each_datum_do_not_predict_other_data():
    def model(y):
        with pyro.plate("data", len(y)):
            rate = pyro.sample("rate", dist.LogNormal(0.0, 1.0))
            pyro.sample("obs", dist.Poisson(rate), obs=y)

    message = "Expected latents outside plates to predict other data from, got 'rate' for each"
    with pytest.raises(ValueError, match=message):
        from_pyro_svi(
            model,
            AutoNormal(model),
            model_args=(torch.zeros(4),),
            num_samples=2,
            predictions_args=(torch.zeros(5),),
        )


def test_log_likelihood_by_step_sums_to_that_by_sequence(forecaster):
    model, guide, args = forecaster
    options = {"model_args": args, "num_samples": 3, "seed": 0}
    whole = from_pyro_svi(model, guide, log_likelihood="sequence", **options)
    data = from_pyro_svi(model, guide, log_likelihood="step", **options)
    by_step = data["log_likelihood"]["obs"]
    assert by_step.dims == ("chain", "draw", "sequence", "horizon")
    np.testing.assert_allclose(by_step.sum("horizon"), whole["log_likelihood"]["obs"], rtol=1e-5)
    loc = torch.as_tensor(data["posterior_predictive"]["loc"].values[0])
    expected = dist.Normal(loc, model.tau.rsqrt()).log_prob(args[1]).detach()
    np.testing.assert_allclose(by_step.values[0], expected.numpy(), rtol=1e-4, atol=1e-5)


def test_log_likelihood_of_a_plate_over_time_is_by_step():
    def model(y):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("sequence", 2, dim=-2), pyro.plate("time", 3, dim=-1):
            pyro.sample("obs", dist.Normal(w, 1.0), obs=y)

    data = from_pyro_svi(model, AutoNormal(model), model_args=(torch.zeros(2, 3),), num_samples=2)
    assert data["log_likelihood"]["obs"].dims == ("chain", "draw", "sequence", "time")


def test_masked_sequences_are_0_at_each_step():
    y = torch.arange(6.0).reshape(3, 2)

    def model(y):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        keep = torch.tensor([True, False, True])
        with pyro.plate("data", 3), pyro.poutine.mask(mask=keep):
            pyro.sample("obs", dist.Normal(w, 1.0).expand([3, 2]).to_event(1), obs=y)

    data = from_pyro_svi(
        model, AutoNormal(model), model_args=(y,), num_samples=2, log_likelihood="step"
    )
    got = data["log_likelihood"]["obs"].values[0]  # (S, 3, 2)
    assert (got[:, 1] == 0).all()
    assert (got[:, ::2] < 0).all()
