"""Exports of models and guides that are not ours, on any device."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal

import pyro_vrnn as vrnn
from pyro_vrnn import from_pyro_svi
from pyro_vrnn.diagnostics import concat_runs
from pyro_vrnn.diagnostics._datasets import groups_of


def regression(x, y=None):
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    slope = pyro.sample("slope", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("obs", dist.Normal(x @ slope, scale), obs=y)


def trained(seed, device="cpu", num_steps=5):
    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    generator = torch.Generator("cpu").manual_seed(0)
    x = torch.randn(6, 2, generator=generator, device="cpu").to(device)
    y = torch.randn(6, generator=generator, device="cpu").to(device)
    guide = AutoNormal(regression)
    svi = SVI(regression, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    losses = [svi.step(x, y) for _ in range(num_steps)]
    return from_pyro_svi(
        regression,
        guide,
        model_args=(x, y),
        svi_result=losses,
        num_samples=4,
        prior=True,
        predictions_args=(x[:2],),
        constant_data=True,
        seed=seed,
    )


def check(data):
    assert dict(data["predictions"]["obs"].sizes) == {"chain": 1, "draw": 4, "data": 2}
    assert dict(data["prior"]["slope"].sizes) == {"chain": 1, "draw": 4, "slope_dim_0": 2}
    assert data["constant_data"]["x"].shape == (6, 2)
    norm = data["sample_stats"]["norm"]
    assert norm["layer"].values.tolist() == ["scale", "slope"]
    slope = data["posterior"]["slope"].values[0]
    expected = np.linalg.norm(slope.astype(np.float64), axis=-1)
    np.testing.assert_allclose(norm.sel(site="slope").values[0], expected)
    for group in ("log_likelihood", "prior_predictive", "sample_stats"):
        for values in data[group].data_vars.values():
            assert np.isfinite(values.values).all()


def test_a_plain_model_with_pyros_guide():
    data = trained(0)
    check(data)
    assert "posterior_summary" not in groups_of(data)
    assert "drop_probs" not in data.attrs


def test_runs_of_a_plain_model_with_histories_of_losses():
    data = concat_runs([trained(0), trained(1, num_steps=3)])
    elbo = data["svi"]["elbo"]
    assert dict(elbo.sizes) == {"chain": 2, "step": 5}
    assert np.isnan(elbo.values[1, 3:]).all()
    assert np.isfinite(elbo.values[1, :3]).all()


@pytest.mark.gpu
def test_a_plain_model_on_a_gpu():
    # The guide's parameters are made on the default device.
    with torch.device("cuda"):
        check(trained(0, device="cuda"))


def test_a_network_on_any_device(device):
    torch.manual_seed(0)
    model = vrnn.models.Forecaster(vrnn.nn.LSTM(1, 3, device=device), 2).to(device)
    guide = vrnn.infer.AutoSpikeAndSlab(model)
    x, y = torch.randn(4, 6, 1, device=device), torch.randn(4, 2, device=device)
    guide(x, y)
    data = from_pyro_svi(
        model,
        guide,
        model_args=(x, y),
        num_samples=3,
        summarize=["rnn.weight_hh_l0"],
        prior=True,
        log_likelihood="step",
        predictions_args=(x + 1,),
        constant_data=True,
    )
    for dataset in groups_of(data).values():
        for values in dataset.data_vars.values():
            assert np.isfinite(values.values).all()


@pytest.mark.gpu
def test_a_network_on_a_gpu():
    test_a_network_on_any_device(torch.device("cuda"))


def test_parts_of_the_kl_are_those_of_the_guide():
    """Constant, slab and mask part sum to the exact KL; the constant alone knows no means."""
    model = vrnn.models.SequenceRegression(vrnn.nn.GRU(8, 8), 1)
    guide = vrnn.infer.AutoSpikeAndSlab(model, scale=0.1)
    args = torch.zeros(2, 3, 8), torch.zeros(2, 1)
    guide(*args)
    parts = from_pyro_svi(model, guide, model_args=args, num_samples=2)["svi"]["kl_parts"]
    assert parts.dims == ("site", "kl_part")
    for name, site in guide.sites.items():
        q, prior = guide.distribution(name), dist.Normal(0.0, 1.0).expand(site.shape)
        exact = torch.distributions.kl_divergence(q, prior.to_event(len(site.shape)))
        np.testing.assert_allclose(parts.sel(site=name).sum(), exact.detach().numpy(), rtol=1e-6)
        constant = site.shape.numel() * 0.5 * (0.01 - 1 - np.log(0.01))
        np.testing.assert_allclose(parts.sel(site=name, kl_part="constant"), constant, rtol=1e-5)
        assert (float(parts.sel(site=name, kl_part="mask")) < 0) == (site.drop_prob > 0)


def test_parts_of_a_guide_inside_a_list_beside_another():
    """Sites without such parts are not in the table; a history may have more."""
    model = vrnn.models.SequenceRegression(vrnn.nn.GRU(8, 8), 1)
    guide = pyro.infer.autoguide.AutoGuideList(model)
    guide.append(vrnn.infer.AutoSpikeAndSlab(pyro.poutine.block(model, hide=["head.bias"])))
    guide.append(AutoNormal(pyro.poutine.block(model, expose=["head.bias"])))
    args = torch.zeros(2, 3, 8), torch.zeros(2, 1)
    data = from_pyro_svi(model, guide, model_args=args, num_samples=2)
    sites = data["svi"]["site"].values.tolist()
    assert "head.bias" not in sites
    assert "head.weight" in sites
    assert "head.bias" in data["sample_stats"]["site"].values
