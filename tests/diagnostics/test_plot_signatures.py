"""All plots are called one way: what is shown first, ``ax`` last and by name, axes returned."""

from __future__ import annotations

import inspect

import matplotlib as mpl
import numpy as np
import pytest
import torch

mpl.use("Agg")
from matplotlib import pyplot
from matplotlib.figure import Figure

import pyro_vrnn as vrnn
from pyro_vrnn import diagnostics

# ArviZ 0.23 calls matplotlib 3.11 in a way that goes with 3.13.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Passing a dict or None as alias_mapping:DeprecationWarning"
)


@pytest.fixture(scope="module")
def shown():
    """Return the arguments of each plot: what it shows, and what else it needs."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = vrnn.models.SequenceRegression(vrnn.nn.LSTM(8, 3), 1)
    guide = vrnn.infer.AutoSpikeAndSlab(model, scale=0.1)
    batch = torch.randn(10, 4, 8), torch.randn(10, 1)
    result = vrnn.infer.fit(
        model,
        guide,
        [batch],
        num_epochs=3,
        optimizer=lambda params: torch.optim.Adam(params, lr=0.01),
        seed=0,
        progress=False,
    )
    check = diagnostics.check_forecasts(rng.normal(size=(20, 12, 2)), rng.normal(size=(12, 2)))
    probs = rng.dirichlet([1.0, 1.0], size=30)
    return {
        "plot_coverage": (check,),
        "plot_elbo": (result.elbo,),
        "plot_elbo_parts": (result,),
        "plot_fan": (rng.normal(size=(5, 4)), range(4)),
        "plot_horizon": (check.crps,),
        "plot_kl_by_site": (
            diagnostics.elbo_anatomy(model, guide, model_args=batch, num_samples=2),
        ),
        "plot_pit": (check,),
        "plot_ppc": (vrnn.from_pyro_svi(model, guide, model_args=batch, num_samples=5),),
        "plot_reliability": (diagnostics.check_classes(probs, np.arange(30) % 2),),
        "plot_site_norms": (diagnostics.site_norms(model, guide, model_args=batch, num_samples=5),),
        "plot_weight_map": (guide.distribution("rnn.weight_hh_l0"),),
    }


PLOTS = [name for name in diagnostics.__all__ if name.startswith("plot_")]


@pytest.mark.parametrize("name", PLOTS)
def test_axes_come_last_and_by_name(name):
    parameters = list(inspect.signature(getattr(diagnostics, name)).parameters.values())
    if parameters[-1].kind is inspect.Parameter.VAR_KEYWORD:
        parameters.pop()
    *others, last = parameters
    assert (last.name, last.kind, last.default) == ("ax", inspect.Parameter.KEYWORD_ONLY, None)
    assert others[0].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert others[0].default is inspect.Parameter.empty


@pytest.mark.parametrize("name", PLOTS)
def test_axes_are_the_given_ones_or_new(shown, name):
    plot = getattr(diagnostics, name)
    ax = Figure().subplots(1, 2)[1]
    assert plot(*shown[name], ax=ax) is ax
    assert ax.has_data()
    assert not pyplot.get_fignums()
    made = plot(*shown[name])
    assert made.has_data()
    assert pyplot.get_fignums() == [made.figure.number]
    pyplot.close("all")


@pytest.mark.parametrize("wrong", [Figure(), Figure().subplots(1, 2)], ids=["figure", "array"])
@pytest.mark.parametrize("name", PLOTS)
def test_axes_that_are_none(shown, name, wrong):
    got = type(wrong).__name__
    with pytest.raises(TypeError, match=f"^Expected ax to be of the class Axes .*, got {got}"):
        getattr(diagnostics, name)(*shown[name], ax=wrong)
    assert not pyplot.get_fignums()


def test_the_elbo_of_a_result_is_that_of_its_numbers(shown):
    (result,) = shown["plot_elbo_parts"]
    lines = [
        diagnostics.plot_elbo(e, ax=Figure().subplots()).lines[0] for e in (result, result.elbo)
    ]
    assert np.array_equal(*(line.get_ydata() for line in lines))
