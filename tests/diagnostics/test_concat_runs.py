import json
import re
from functools import partial

import arviz as az
import numpy as np
import pytest
import torch

import pyro_vrnn as vrnn
from pyro_vrnn import from_pyro_svi
from pyro_vrnn.diagnostics import concat_runs
from pyro_vrnn.diagnostics._datasets import groups_of


def run(seed, num_epochs=2, hidden=3, num_samples=6, offset=0.0, **options):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 5, 2, generator=generator)
    y = torch.randn(4, 1, generator=generator) + offset
    torch.manual_seed(seed)
    model = vrnn.models.SequenceRegression(vrnn.nn.GRU(2, hidden), 1)
    guide = vrnn.infer.AutoSpikeAndSlab(model)
    adam = partial(torch.optim.Adam, lr=0.01)
    result = vrnn.infer.fit(
        model, guide, [(x, y)], num_epochs=num_epochs, optimizer=adam, seed=seed, progress=False
    )
    return from_pyro_svi(
        model,
        guide,
        model_args=(x, y),
        svi_result=result,
        num_samples=num_samples,
        seed=seed,
        constant_data=True,
        summarize=["rnn.weight_hh_l0"],
        **options,
    )


@pytest.fixture(scope="module")
def runs():
    return [run(1), run(2, num_epochs=4), run(3, num_epochs=3)]


def test_runs_become_chains(runs):
    data = concat_runs(runs)
    assert type(data) is type(runs[0])
    assert sorted(groups_of(data)) == sorted(groups_of(runs[0]))
    for group in ("posterior", "posterior_summary", "sample_stats", "log_likelihood"):
        for name in data[group].data_vars:
            for chain in range(3):
                got = data[group][name].sel(chain=chain)
                np.testing.assert_array_equal(got, runs[chain][group][name].sel(chain=0))
    assert data["posterior"]["chain"].values.tolist() == [0, 1, 2]
    for group in ("observed_data", "constant_data"):
        assert "chain" not in data[group].dims


def test_histories_of_different_length_end_in_nan(runs):
    svi = concat_runs(runs)["svi"]
    assert svi["elbo"].dims == ("chain", "step")
    assert svi.sizes["step"] == svi.sizes["epoch"] == 4
    for chain, steps in enumerate((2, 4, 3)):
        elbo = svi["elbo"].sel(chain=chain).values
        np.testing.assert_array_equal(elbo[:steps], runs[chain]["svi"]["elbo"].values)
        assert np.isnan(elbo[steps:]).all()
    kl = svi["kl"].sel(chain=1, site="rnn.weight_hh_l0").values
    np.testing.assert_array_equal(kl, runs[1]["svi"]["kl"].sel(site="rnn.weight_hh_l0"))
    assert svi["kl_parts"].dims == ("chain", "site", "kl_part")
    assert svi["layer"].dims == ("site",)


def test_attributes_that_differ_are_listed(runs):
    data = concat_runs(runs)
    assert json.loads(data.attrs["seed"]) == [1, 2, 3]
    assert data.attrs["guide"] == "AutoSpikeAndSlab"
    assert json.loads(data["svi"].attrs["fit_seed"]) == [1, 2, 3]


def test_runs_can_be_added_later(runs):
    data = concat_runs([concat_runs(runs[:2]), runs[2]])
    together = concat_runs(runs)
    for group in ("posterior", "svi"):
        for name, values in data[group].data_vars.items():
            np.testing.assert_array_equal(values, together[group][name])


def test_one_run_is_itself(runs):
    data = concat_runs(runs[:1])
    np.testing.assert_array_equal(data["posterior"]["head.bias"], runs[0]["posterior"]["head.bias"])


def test_arviz_sees_chains(runs):
    table = az.summary(concat_runs(runs), var_names=["head.bias"])
    assert "r_hat" in table.columns
    assert np.isfinite(table["r_hat"].astype(float)).all()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            partial(run, 4, hidden=4),
            "Expected runs with the same dims of posterior/rnn.weight_ih_l0",
        ),
        (
            partial(run, 4, num_samples=5),
            "Expected runs with the same dims of posterior/rnn.weight_ih_l0, got {'draw': 6, ",
        ),
        (
            partial(run, 4, posterior=["head.*"]),
            "Expected runs with the same variables in posterior, got 'rnn.bias_hh_l0', "
            "'rnn.bias_ih_l0', 'rnn.weight_ih_l0' in one of runs 0 and 1 alone.",
        ),
        (
            partial(run, 4, log_likelihood=False),
            "Expected runs with the same groups, got 'log_likelihood' in one of runs 0 and 1",
        ),
        (
            partial(run, 4, offset=1.0),
            "Expected runs of the same observed_data/obs, got other values in run 1.",
        ),
        (
            partial(run, 4, coords={"sequence": list("abcd")}),
            "Expected runs with the same coordinates 'sequence' of posterior_predictive/",
        ),
    ],
    ids=["sizes", "draws", "sites", "groups", "data", "coords"],
)
def test_runs_that_do_not_match_are_refused(runs, other, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        concat_runs([runs[0], other()])


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([], ValueError, "Expected at least one run, got none."),
        (3, TypeError, "Expected runs to be a list of exports, got int."),
        ([3], TypeError, "Expected runs to be exports, got int."),
    ],
    ids=["none", "int", "no-export"],
)
def test_arguments_are_checked(given, error, message):
    with pytest.raises(error, match=re.escape(message)):
        concat_runs(given)


def test_a_history_without_chains_of_several_is_refused(runs):
    data = concat_runs(runs[:2])
    lacking = data["svi"].isel(chain=0, drop=True)
    if hasattr(data, "children"):
        data["svi"] = lacking
    else:
        del data.svi
        data.add_groups({"svi": lacking}, warn_on_custom_groups=False)
    with pytest.raises(ValueError, match="of a run of 2 chains to have them too"):
        concat_runs([data])
