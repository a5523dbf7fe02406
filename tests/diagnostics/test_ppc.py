import arviz as az
import matplotlib as mpl
import numpy as np
import pytest
import torch
from pyro.infer import Predictive

mpl.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

import pyro_vrnn as vrnn
from pyro_vrnn.diagnostics import plot_ppc

# ArviZ 0.23 calls matplotlib 3.11 in a way that goes with 3.13.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Passing a dict or None as alias_mapping:DeprecationWarning"
)
IS_0 = int(az.__version__.split(".")[0]) < 1


@pytest.fixture(scope="module")
def data():
    torch.manual_seed(0)
    model = vrnn.models.SequenceRegression(vrnn.nn.GRU(2, 3), 1)
    guide = vrnn.infer.AutoSpikeAndSlab(model, scale=0.1)
    x, y = torch.randn(30, 4, 2), torch.randn(30, 1)
    prior = Predictive(model, num_samples=25)(x)
    return vrnn.from_pyro_svi(model, guide, model_args=(x, y), num_samples=25, prior=prior)


@pytest.mark.parametrize("num_samples", [10, 1_000], ids=["some", "all-there-are"])
def test_lines_are_draws_beside_the_observations(data, num_samples):
    ax = plot_ppc(data, num_samples=num_samples)
    assert isinstance(ax, Axes)
    count = min(num_samples, 25)
    # One line for each draw, one for the observations; ArviZ 0.x adds the mean of the draws.
    drawn = [line for line in ax.lines if len(line.get_xdata()) > 1]
    assert len(drawn) == count + (2 if IS_0 else 1)
    pyplot.close("all")


def test_only_the_observed_site_is_drawn(data):
    ax = plot_ppc(data, num_samples=3)
    assert len([other for other in ax.figure.axes if other.lines]) == 1
    pyplot.close("all")


@pytest.mark.parametrize("group", ["posterior_predictive", "prior_predictive"])
def test_given_axes_show_what_new_ones_do(data, group):
    left, right = pyplot.figure().subplots(1, 2)
    options = {"group": group, "num_samples": 10, **({"random_seed": 0} if IS_0 else {})}
    assert plot_ppc(data, ax=right, **options) is right
    new = plot_ppc(data, **options)
    assert len(right.lines) == len(new.lines) > 0
    for ours, theirs in zip(right.lines, new.lines, strict=True):
        np.testing.assert_array_equal(ours.get_xydata(), theirs.get_xydata())
    assert not left.has_data()
    pyplot.close("all")


def test_prior_predictive(data):
    assert isinstance(plot_ppc(data, group="prior_predictive", num_samples=5), Axes)
    pyplot.close("all")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"data": np.ones(3)},
            TypeError,
            r"Expected data to be an InferenceData or a DataTree",
        ),
        ({"group": "posterior"}, ValueError, r"Expected group to be one of 'posterior_predictive'"),
        ({"var_name": "y"}, ValueError, r"Expected a variable 'y' in posterior_predictive, got"),
        ({"num_samples": 0}, ValueError, r"Expected num_samples to be a positive int, got 0\."),
    ],
    ids=["data", "group", "variable", "samples"],
)
def test_ppc_refuses(data, change, error, message):
    with pytest.raises(error, match=message):
        plot_ppc(**{"data": data, **change})
