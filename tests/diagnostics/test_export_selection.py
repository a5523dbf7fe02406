import json
import re

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

import pyro_vrnn as vrnn
from pyro_vrnn import from_pyro_svi

SUMMARISED = "the group posterior_summary has the mean and sd of each element"


def network(hidden=4, **options):
    torch.manual_seed(0)
    model = vrnn.models.SequenceRegression(vrnn.nn.LSTM(2, hidden), 1)
    guide = vrnn.infer.AutoSpikeAndSlab(model, **options)
    args = torch.randn(3, 5, 2), torch.randn(3, 1)
    guide(*args)
    return model, guide, args


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["rnn.weight_hh_*"], ["rnn.weight_hh_l0"]),
        (["*.bias", "rnn.bias_ih_l0"], ["rnn.bias_ih_l0", "head.bias"]),
        (["rnn.*"], [f"rnn.{n}_{m}_l0" for n in ("weight", "bias") for m in ("ih", "hh")]),
        ([], []),
    ],
    ids=["one", "two", "module", "none"],
)
def test_sites_are_chosen_by_pattern(patterns, expected):
    model, guide, args = network()
    data = from_pyro_svi(model, guide, model_args=args, num_samples=2, posterior=patterns)
    groups = data.groups() if hasattr(data, "groups") and callable(data.groups) else data.children
    if not expected:
        assert "posterior" not in groups
    else:
        assert list(data["posterior"].data_vars) == expected


def test_a_name_with_brackets_is_itself_before_it_is_a_pattern():
    def model(y):
        a = pyro.sample("w[0]", dist.Normal(0.0, 1.0))
        b = pyro.sample("w0", dist.Normal(0.0, 1.0))
        pyro.sample("obs", dist.Normal(a + b, 1.0), obs=y)

    options = {"model_args": (torch.tensor(0.0),), "num_samples": 2}
    data = from_pyro_svi(model, AutoNormal(model), posterior=["w[0]"], **options)
    assert "w[0]" in data["posterior"].data_vars


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"posterior": ["cell.*"]}, ValueError, "Expected the sites in posterior to be among rnn."),
        ({"summarize": ["cell.*"]}, ValueError, "Expected the sites in summarize to be among rnn."),
        (
            {"summarize": "rnn.*"},
            TypeError,
            "Expected summarize to be a list of sites, got 'rnn.*'.",
        ),
    ],
    ids=["posterior", "summarize", "str"],
)
def test_patterns_are_checked(options, error, message):
    model, guide, args = network()
    with pytest.raises(error, match=re.escape(message)):
        from_pyro_svi(model, guide, model_args=args, num_samples=2, **options)


def test_a_summary_is_that_of_the_draws():
    model, guide, args = network()
    options = {"model_args": args, "num_samples": 7, "seed": 3}
    whole = from_pyro_svi(model, guide, **options)
    data = from_pyro_svi(model, guide, summarize=["rnn.weight_*"], **options)
    assert "rnn.weight_hh_l0" not in data["posterior"].data_vars
    assert set(data["posterior_summary"].data_vars) == {"rnn.weight_ih_l0", "rnn.weight_hh_l0"}
    assert json.loads(data.attrs["summarized_sites"]) == ["rnn.weight_ih_l0", "rnn.weight_hh_l0"]
    draws = whole["posterior"]["rnn.weight_hh_l0"].sel(gate="f")
    summary = data["posterior_summary"]["rnn.weight_hh_l0"].sel(gate="f")
    assert summary.dims == ("chain", "statistic", "unit", "previous_unit")
    assert summary.dtype == np.float32
    mean, sd = draws.mean("draw"), draws.astype(np.float64).std("draw", ddof=1)
    np.testing.assert_allclose(summary.sel(statistic="mean"), mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(summary.sel(statistic="sd"), sd, rtol=1e-5, atol=1e-6)
    for name in ("log_p__", "log_g__", "norm"):
        assert (data["sample_stats"][name].values == whole["sample_stats"][name].values).all()


def test_what_does_not_fit_is_summarised_and_said_so():
    """The largest sites first, and only as many as it takes."""
    model, guide, args = network(hidden=32)
    options = {"model_args": args, "num_samples": 20, "seed": 0}
    limit = 20 * 4 * 3000  # weight_hh has 4096 numbers of 4 bytes, all others 550
    with pytest.warns(UserWarning, match=SUMMARISED) as caught:
        data = from_pyro_svi(model, guide, max_bytes=limit, **options)
    assert "of rnn.weight_hh_l0 (320 KiB) the group" in str(caught[0].message)
    assert caught[0].filename == __file__
    assert list(data["posterior_summary"].data_vars) == ["rnn.weight_hh_l0"]
    assert "rnn.weight_ih_l0" in data["posterior"].data_vars
    kept = sum(data[group].nbytes for group in ("posterior", "log_likelihood", "sample_stats"))
    assert kept <= limit


def test_draws_of_the_prior_count_too():
    model, guide, args = network(hidden=32)
    options = {"model_args": args, "num_samples": 20, "max_bytes": 20 * 4 * 7000}
    whole = from_pyro_svi(model, guide, **options)
    assert "rnn.weight_hh_l0" in whole["posterior"].data_vars
    with pytest.warns(UserWarning, match=SUMMARISED):
        data = from_pyro_svi(model, guide, prior=True, **options)
    assert "rnn.weight_hh_l0" not in data["prior"].data_vars
    assert "rnn.weight_ih_l0" in data["prior"].data_vars


def test_what_is_asked_for_by_name_is_not_summarised():
    model, guide, args = network(hidden=32)
    message = "Expected an export of at most 234 KiB (max_bytes), got 3"
    with pytest.raises(ValueError, match=re.escape(message)):
        from_pyro_svi(
            model, guide, model_args=args, num_samples=20, max_bytes=20 * 4 * 3000, posterior=["*"]
        )
