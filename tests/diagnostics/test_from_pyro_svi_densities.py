import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, AutoNormal

import pyro_vrnn as vrnn
from pyro_vrnn import from_pyro_svi

Z = 4.26


def stats(data, name):
    return data["sample_stats"][name].values[0]  # (S,)


def weights(data):
    """Return every weight of each draw, (S, number of weights)."""
    arrays = [v.values[0] for v in data["posterior"].data_vars.values()]
    return np.concatenate([a.reshape(len(a), -1) for a in arrays], axis=1)


def recurrent(kind, num_sequences, num_steps, hidden, **kwargs):
    """Return a model in float64, a guide, and its training arguments."""
    torch.manual_seed(0)
    rnn = vrnn.nn.GRU(1, hidden, dtype=torch.float64)
    x = torch.randn(num_sequences, num_steps, 1, dtype=torch.float64)
    y = torch.randn(num_sequences, 2, dtype=torch.float64)
    if kind == "forecaster":
        model = vrnn.models.Forecaster(rnn, 2, lag=2, **kwargs)
    else:
        model = vrnn.models.SequenceRegression(rnn, 2, **kwargs)
    guide = vrnn.infer.AutoSpikeAndSlab(model, drop_prob={"weight_hh": 0.5}, scale=0.3)
    return model, guide, (x, y)


def test_exact_guide_gives_the_evidence_at_every_draw(exact):
    data = from_pyro_svi(exact.model, exact.guide, model_args=exact.args, num_samples=20)
    log_weights = stats(data, "log_p__") - stats(data, "log_g__")
    np.testing.assert_allclose(log_weights, float(exact.evidence), rtol=0, atol=1e-9)
    assert stats(data, "log_g__").std() > 0.1  # the draws differ


def test_mean_of_the_difference_is_the_elbo(conjugate):
    # A wider guide loses its divergence from the posterior.
    mean, covariance = conjugate.posterior()
    conjugate.guide.scale = 1.5 * conjugate.guide.scale.detach()
    q = dist.MultivariateNormal(mean, 2.25 * covariance)
    divergence = torch.distributions.kl_divergence(q, dist.MultivariateNormal(mean, covariance))
    num_samples = 400
    data = from_pyro_svi(
        conjugate.model, conjugate.guide, model_args=conjugate.args, num_samples=num_samples
    )
    log_weights = stats(data, "log_p__") - stats(data, "log_g__")
    error = log_weights.std(ddof=1) / num_samples**0.5
    assert abs(log_weights.mean() - float(conjugate.evidence - divergence)) < Z * error


def test_lp_is_log_p(conjugate):
    data = from_pyro_svi(conjugate.model, conjugate.guide, model_args=conjugate.args, num_samples=3)
    assert stats(data, "lp").tolist() == stats(data, "log_p__").tolist()
    assert stats(data, "lp").dtype == np.float64


@pytest.mark.parametrize(
    ("kind", "options", "factor"),
    [
        ("regression", {"num_data": 20}, 4.0),
        ("forecaster", {"num_data": 20, "overlap": 2.5}, 1.6),
    ],
    ids=["regression", "forecaster"],
)
def test_log_p_is_scaled_and_log_likelihood_is_not(kind, options, factor):
    model, guide, args = recurrent(kind, 5, 8, 3, **options)
    data = from_pyro_svi(model, guide, model_args=args, num_samples=6)
    pointwise = data["log_likelihood"]["obs"].values[0]  # (S, N)
    log_prior = dist.Normal(0.0, 1.0).log_prob(torch.as_tensor(weights(data))).sum(-1).numpy()
    expected = log_prior + factor * pointwise.sum(-1)
    np.testing.assert_allclose(stats(data, "log_p__"), expected, rtol=1e-10)


# S = N = T = H: a dim that is taken for another gives wrong values, not an error.
@pytest.mark.parametrize("sizes", [(5, 5, 5, 5), (7, 4, 6, 3)], ids=["equal", "different"])
def test_log_likelihood_of_each_datum_by_hand(sizes):
    num_samples, num_sequences, num_steps, hidden = sizes
    model, guide, args = recurrent("regression", num_sequences, num_steps, hidden, tau=2.5)
    data = from_pyro_svi(model, guide, model_args=args, num_samples=num_samples)
    got = data["log_likelihood"]["obs"].values
    assert got.shape == (1, num_samples, num_sequences)
    loc = torch.as_tensor(data["posterior_predictive"]["loc"].values)
    expected = dist.Normal(loc, 2.5**-0.5).log_prob(args[1]).sum(-1)
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-10)


@pytest.mark.parametrize("sizes", [(5, 5, 5, 5), (7, 4, 6, 3)], ids=["equal", "different"])
def test_loc_is_the_network_at_the_exported_weights(sizes):
    num_samples, num_sequences, num_steps, hidden = sizes
    model, guide, args = recurrent("regression", num_sequences, num_steps, hidden)
    data = from_pyro_svi(model, guide, model_args=args, num_samples=num_samples)
    index = num_samples - 2
    draw = {
        name: torch.as_tensor(v.values[0, index]) for name, v in data["posterior"].data_vars.items()
    }
    plain = torch.nn.GRU(1, hidden, batch_first=True, dtype=torch.float64)
    flat = {n.removeprefix("rnn."): v.flatten(0, 1) for n, v in draw.items() if "rnn" in n}
    plain.load_state_dict(flat)  # gates in front of units, as torch has them
    last = plain(args[0])[1][0]
    expected = last @ draw["head.weight"].T + draw["head.bias"]
    got = data["posterior_predictive"]["loc"].values[0, index]
    np.testing.assert_allclose(got, expected.detach().numpy(), rtol=1e-10, atol=1e-12)


def test_log_g_is_that_of_the_guide():
    model, guide, args = recurrent("regression", 4, 5, 3)
    data = from_pyro_svi(model, guide, model_args=args, num_samples=5)
    expected = sum(
        guide.distribution(name).log_prob(
            torch.as_tensor(values.values[0]).reshape(5, *guide.sites[name].shape)
        )
        for name, values in data["posterior"].data_vars.items()
    )
    np.testing.assert_allclose(stats(data, "log_g__"), expected.detach().numpy(), rtol=1e-10)


def test_predictions_are_drawn_anew(conjugate):
    num_samples = 400
    data = from_pyro_svi(
        conjugate.model, conjugate.guide, model_args=conjugate.args, num_samples=num_samples
    )
    got = data["posterior_predictive"]["obs"].values[0]  # (S, N)
    mean, covariance = conjugate.posterior()
    x, _ = conjugate.args
    variance = ((x @ covariance) * x).sum(-1) + 0.25
    z = (got.mean(0) - (x @ mean).numpy()) / (variance.numpy() / num_samples) ** 0.5
    assert np.abs(z).max() < Z
    # The variance of a sample variance of normals is 2 / (S - 1) of its square.
    ratio = got.var(0, ddof=1) / variance.numpy()
    assert np.abs(ratio - 1).max() < Z * (2 / (num_samples - 1)) ** 0.5


def test_masked_data_have_log_likelihood_0():
    y = torch.arange(4.0)

    def model(y):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 4), poutine.mask(mask=y > 1.5):
            pyro.sample("obs", dist.Normal(w, 1.0), obs=y)

    data = from_pyro_svi(model, AutoNormal(model), model_args=(y,), num_samples=3)
    got = data["log_likelihood"]["obs"].values[0]
    assert (got[:, :2] == 0).all()
    assert (got[:, 2:] < 0).all()


def test_factors_count_in_log_p_and_are_not_exported():
    def model(y):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        pyro.factor("extra", torch.tensor(-7.0))
        pyro.sample("obs", dist.Normal(w, 1.0), obs=y)

    data = from_pyro_svi(model, AutoDelta(model), model_args=(torch.tensor(1.0),), num_samples=2)
    assert list(data["observed_data"].data_vars) == ["obs"]
    assert list(data["log_likelihood"].data_vars) == ["obs"]
    w = data["posterior"]["w"].values[0]
    expected = -7.0 - np.log(2 * np.pi) - 0.5 * w**2 - 0.5 * (1 - w) ** 2
    np.testing.assert_allclose(stats(data, "log_p__"), expected, rtol=1e-5)


def test_a_guide_without_a_density_has_no_log_g():
    """scale=0 is the dropout limit: its draws are exported, its log q does not exist."""
    model = vrnn.models.SequenceRegression(vrnn.nn.GRU(8, 4), 1)
    guide = vrnn.infer.AutoSpikeAndSlab(model, scale=0, scope="sequence")
    x, y = torch.randn(3, 5, 8), torch.randn(3, 1)
    guide(x, y)
    data = vrnn.from_pyro_svi(model, guide, model_args=(x, y), num_samples=4, seed=0)
    assert set(data["sample_stats"].data_vars) == {"lp", "log_p__", "norm"}
    assert data.attrs["bound"].startswith("up to a constant")
    columns = data["posterior"]["rnn.weight_hh_l0"].values[0]
    assert (columns == 0).any()
    assert np.isfinite(data["sample_stats"]["log_p__"].values).all()
