"""What elbo_anatomy refuses, and how its text and dataset read."""

from __future__ import annotations

import math
import re

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import config_enumerate
from pyro.infer.autoguide import AutoNormal

import pyro_vrnn as vrnn
from pyro_vrnn.diagnostics import Estimate, elbo_anatomy
from pyro_vrnn.diagnostics._tables import number, text_table


def model(y=None):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 3):
        pyro.sample("obs", dist.Normal(w, 1.0), obs=y)


def only_factor(y=None):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    pyro.factor("f", -w.square())


Y = torch.zeros(3)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": 3}, TypeError, "Expected model to be callable, got int."),
        ({"guide": "g"}, TypeError, "Expected guide to be callable, got str."),
        ({"model_args": Y}, TypeError, "Expected model_args to be a tuple, got Tensor."),
        ({"model_kwargs": [1]}, TypeError, "Expected model_kwargs to be a dict, got list."),
        ({"num_samples": 1}, ValueError, "Expected num_samples of at least 2, got 1."),
        ({"num_samples": 0}, ValueError, "Expected num_samples to be a positive int, got 0."),
        ({"num_observations": 0}, ValueError, "Expected num_observations to be a positive number"),
        ({"seed": -1}, ValueError, "Expected seed to be a non-negative int, got -1."),
        ({"reference": "x"}, TypeError, "Expected reference to be a number of nats, got 'x'."),
        (
            {"reference": math.nan},
            ValueError,
            "Expected reference to be a finite number of nats, got nan.",
        ),
        (
            {"model": only_factor},
            ValueError,
            "Expected observations to divide totals by, got none that a plate counts",
        ),
    ],
    ids=lambda value: None,
)
def test_refuses(options, error, message):
    given = {"model": model, "guide": AutoNormal(model), "model_args": (Y,), **options}
    if given["model"] is only_factor:
        given["guide"] = AutoNormal(only_factor)
    with pytest.raises(error, match=re.escape(message)):
        elbo_anatomy(given.pop("model"), given.pop("guide"), **given)


def test_refuses_a_model_that_observes_nothing():
    def guide(y=None):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 3):
            pyro.sample("obs", dist.Normal(w, 2.0))

    message = "Expected a model that observes data, got latents only ('w', 'obs'): model_args must"
    with pytest.raises(ValueError, match=re.escape(message)):
        elbo_anatomy(model, guide, num_samples=2)


def test_refuses_a_guide_that_lacks_a_latent():
    with pytest.raises(ValueError, match=r"Expected every latent of the model in the guide, got"):
        elbo_anatomy(model, lambda y: None, model_args=(Y,), num_samples=2)


def test_refuses_enumeration():
    @config_enumerate
    def guide(y):
        pyro.sample("k", dist.Bernoulli(0.5))

    def discrete(y):
        k = pyro.sample("k", dist.Bernoulli(0.5))
        pyro.sample("obs", dist.Normal(k, 1.0).expand([3]).to_event(1), obs=y)

    with pytest.raises(NotImplementedError, match="Expected no enumerated site, got 'k'"):
        elbo_anatomy(discrete, guide, model_args=(Y,), num_samples=2)


def test_per_observation_refuses_a_unit():
    anatomy = elbo_anatomy(model, AutoNormal(model), model_args=(Y,), num_samples=2)
    with pytest.raises(ValueError, match="Expected unit to be one of 'nats', 'bits', got 'bytes'"):
        anatomy.per_observation(1.0, "bytes")


def test_a_likelihood_of_factors_alone_needs_a_count():
    anatomy = elbo_anatomy(
        only_factor, AutoNormal(only_factor), model_args=(Y,), num_samples=2, num_observations=7
    )
    assert anatomy.per_observation(14.0) == 2
    assert anatomy.reference is None


def test_an_estimate_is_a_mean_and_its_standard_error():
    estimate = Estimate.of(np.array([1.0, 2.0, 6.0]))
    assert estimate.value == 3
    assert estimate.standard_error == pytest.approx(math.sqrt(7 / 3))
    assert str(estimate) == "3.000 ± 1.528"
    assert Estimate.of(np.full(7, 0.1)) == Estimate(0.1, 0.0)


@pytest.fixture(scope="module")
def anatomy():
    torch.manual_seed(0)
    network = vrnn.models.SequenceClassification(vrnn.nn.GRU(8, 4), 3)
    guide = vrnn.infer.AutoSpikeAndSlab(network, scale=0.1)
    batch = torch.randn(5, 6, 8), torch.tensor([0, 1, 2, 0, 1])
    return elbo_anatomy(network, guide, model_args=batch, num_samples=4, seed=9)


def test_text_has_the_numbers(anatomy):
    lines = str(anatomy).splitlines()
    assert lines[0].startswith("ELBO of 4 draws (seed 9), nats")
    table = {line.split("  ")[0]: line.split() for line in lines}
    for site in anatomy.sites:
        row = table[site.name]
        assert row[1] == str(site.num_weights)
        values = [site.constant, site.slab, site.mask, site.kl.value]
        assert row[2:6] == [number(value) for value in values]
        assert row[6:8] == ["exact", number(site.gal)]
        assert row[8:] == [number(site.sampled.value), number(site.sampled.standard_error)]
    elbo = anatomy.elbo
    assert table["ELBO"] == [
        "ELBO", number(elbo.value), number(elbo.standard_error),
        number(elbo.value / 5), number(elbo.value / 5 / math.log(2)),
    ]  # fmt: skip
    assert table["uniform coding"][2] == number(-5 * math.log(3))
    assert "KL by layer" in table
    assert table["rnn.l0"][5] == number(anatomy.layers[0].kl.value)


def test_layers_are_left_out_where_they_are_the_sites():
    text = str(elbo_anatomy(model, AutoNormal(model), model_args=(Y,), num_samples=2))
    assert "KL by site" in text
    assert "KL by layer" not in text


def test_dataset_has_the_numbers(anatomy, tmp_path):
    data = anatomy.to_dataset()
    assert dict(data.sizes) == {"draw": 4, "observed_site": 1, "site": 6, "layer": 2}
    np.testing.assert_array_equal(data["elbo"], anatomy.elbo_draws)
    assert data["site"].values.tolist() == [site.name for site in anatomy.sites]
    for site in anatomy.sites:
        row = data.sel(site=site.name)
        parts = row["kl_constant"] + row["kl_slab"] + row["kl_mask"]
        assert float(parts) == pytest.approx(float(row["kl"]), rel=1e-5)
        assert str(row["site_layer"].values) == site.layer
        assert np.isnan(row["kl_gal"]) == (site.gal is None)
        assert float(row["kl_sampled_error"]) == site.sampled.standard_error
    np.testing.assert_allclose(data["layer_kl"].sum(), data["kl"].sum())
    assert data.attrs["elbo"] == anatomy.elbo.value
    assert data.attrs["reference"] == pytest.approx(-5 * math.log(3))
    data.to_netcdf(tmp_path / "anatomy.nc", engine="h5netcdf")


def test_table_alignment():
    text = text_table(["a", "b"], [["long name", "1"], ["x", "100"]])
    assert text.splitlines() == ["a            b", "long name    1", "x          100"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0, "0"), (-123456.7, "-123,457"), (999.96, "1,000.0"), (0.5, "0.5000"),
     (2e-5, "2e-05"), (math.inf, "inf")],
)  # fmt: skip
def test_numbers(value, text):
    assert number(value) == text
