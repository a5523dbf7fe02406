"""Plots of the ELBO's parts: the artists hold the numbers."""

from __future__ import annotations

import re
from functools import partial

import matplotlib as mpl
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

import pyro_vrnn as vrnn
from pyro_vrnn.diagnostics import elbo_anatomy, plot_elbo_parts, plot_kl_by_site
from pyro_vrnn.infer import FitResult

mpl.use("Agg")
from matplotlib.figure import Figure


@pytest.fixture
def ax():
    return Figure().add_subplot()


def history():
    """Return a FitResult of 6 steps: ELL -10, -8, ...; two sites' KL 5 - k / 2 and 1."""
    result = FitResult()
    for k in range(6):
        expected, kl = -10.0 + 2 * k, {"a": 5.0 - k / 2, "b": 1.0}
        row = {"loss": sum(kl.values()) - expected, "expected_log_likelihood": expected}
        result.steps.append({**row, **{f"kl.{name}": value for name, value in kl.items()}})
    return result


EXPECTED = -10 + 2 * np.arange(6.0)
KL = 6 - np.arange(6.0) / 2


def lines(ax):
    return {line.get_label(): line for line in ax.lines}


def test_lines_are_the_elbo_and_its_parts(ax):
    assert plot_elbo_parts(history(), ax=ax) is ax
    drawn = lines(ax)
    assert list(drawn) == ["ELBO", "expected log-likelihood", "−KL"]
    np.testing.assert_allclose(drawn["ELBO"].get_ydata(), EXPECTED - KL)
    np.testing.assert_allclose(drawn["expected log-likelihood"].get_ydata(), EXPECTED)
    np.testing.assert_allclose(drawn["−KL"].get_ydata(), -KL)
    np.testing.assert_array_equal(drawn["ELBO"].get_xdata(), np.arange(6))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "nats")


def test_window_skip_and_relative(ax):
    plot_elbo_parts(history(), window=2, skip=1, relative=True, ax=ax)
    elbo, expected, kl = ax.lines
    np.testing.assert_array_equal(elbo.get_xdata(), [2, 3, 4, 5])
    mean = (EXPECTED[1:-1] + EXPECTED[2:]) / 2
    np.testing.assert_allclose(expected.get_ydata(), mean - mean[-1])
    np.testing.assert_allclose(elbo.get_ydata(), expected.get_ydata() + kl.get_ydata())
    assert expected.get_label() == "expected log-likelihood (at the end -1)"
    assert ax.get_ylabel() == "nats, less the last"


@pytest.fixture(scope="module")
def exported():
    torch.manual_seed(0)
    model = vrnn.models.SequenceRegression(vrnn.nn.GRU(3, 4), 1)
    guide = vrnn.infer.AutoSpikeAndSlab(model)
    batch = torch.randn(4, 5, 3), torch.randn(4, 1)
    adam = partial(torch.optim.Adam, lr=0.01)
    result = vrnn.infer.fit(
        model, guide, [batch], num_epochs=5, optimizer=adam, seed=0, progress=False
    )
    data = vrnn.from_pyro_svi(
        model, guide, svi_result=result, model_args=batch, num_samples=2, seed=0
    )
    return result, data, guide


@pytest.mark.parametrize("form", ["container", "group"])
def test_an_export_draws_what_the_result_draws(ax, exported, form):
    result, data, _ = exported
    plot_elbo_parts(data if form == "container" else data["svi"], ax=ax)
    drawn = lines(ax)
    np.testing.assert_allclose(drawn["ELBO"].get_ydata(), result.elbo)
    kl = np.sum(list(result.kl.values()), axis=0)
    np.testing.assert_allclose(drawn["−KL"].get_ydata(), -kl)
    total = drawn["expected log-likelihood"].get_ydata() + drawn["−KL"].get_ydata()
    np.testing.assert_allclose(total, drawn["ELBO"].get_ydata(), rtol=1e-6)


def without_parts():
    result = FitResult()
    result.steps.append({"loss": 1.0})
    return result


@pytest.mark.parametrize(
    ("make", "options", "error", "message"),
    [
        (lambda: [1.0], {}, TypeError, "Expected history to be a FitResult, or an export of one"),
        (lambda: {"svi": {}}, {}, TypeError, "Expected history to be a FitResult, or an export"),
        (without_parts, {}, ValueError, "Expected a history with the ELBO's parts, got the ELBO"),
        (history, {"skip": 6}, ValueError, "Expected skip in 0..5, got 6."),
        (history, {"skip": True}, ValueError, "Expected skip in 0..5, got True."),
        (history, {"window": 5, "skip": 2}, ValueError, "Expected window of at most 4 steps"),
        (history, {"window": 0}, ValueError, "Expected window to be a positive int, got 0."),
    ],
    ids=["list", "no elbo", "no parts", "skip", "bool", "window", "no window"],
)
def test_history_is_refused(ax, make, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        plot_elbo_parts(make(), ax=ax, **options)


@pytest.fixture(scope="module")
def anatomy():
    torch.manual_seed(0)
    model = vrnn.models.SequenceRegression(vrnn.nn.GRU(8, 4), 1)
    guide = vrnn.infer.AutoSpikeAndSlab(model, scale=0.1)
    batch = torch.randn(4, 5, 8), torch.randn(4, 1)
    return elbo_anatomy(model, guide, model_args=batch, num_samples=3)


def bars(ax):
    """Return label -> (starts, widths) of the horizontal bars."""
    return {
        bar.get_label(): np.array([[patch.get_x(), patch.get_width()] for patch in bar]).T
        for bar in ax.containers
        if hasattr(bar, "patches") and not bar.get_label().startswith("KL")
    }


@pytest.mark.parametrize("per_weight", [False, True], ids=["total", "per weight"])
@pytest.mark.parametrize("by", ["site", "layer"])
def test_bars_are_the_parts(ax, anatomy, by, per_weight):
    assert plot_kl_by_site(anatomy, by=by, per_weight=per_weight, ax=ax) is ax
    parts = anatomy.sites if by == "site" else anatomy.layers
    sizes = np.array([part.num_weights if per_weight else 1 for part in parts])
    drawn = bars(ax)
    assert list(drawn) == ["constant", "slab", "mask"]
    for name, (_, widths) in drawn.items():
        np.testing.assert_allclose(widths, [getattr(p, name) for p in parts] / sizes, atol=1e-9)
    np.testing.assert_allclose(drawn["slab"][0], drawn["constant"][1])  # stacked
    np.testing.assert_array_equal(drawn["mask"][0], 0)  # to the left
    (marks,) = [line for line in ax.lines if line.get_marker() == "D"]
    np.testing.assert_allclose(marks.get_xdata(), [p.kl.value for p in parts] / sizes)
    assert [t.get_text() for t in ax.get_yticklabels()] == [p.name for p in parts]
    assert ax.get_xlabel() == ("nats a weight" if per_weight else "nats")
    assert ax.yaxis_inverted()


def test_without_the_constant_part(ax, anatomy):
    plot_kl_by_site(anatomy, constant=False, ax=ax)
    drawn = bars(ax)
    assert list(drawn) == ["slab", "mask"]
    np.testing.assert_array_equal(drawn["slab"][0], 0)
    (marks,) = [line for line in ax.lines if line.get_marker() == "D"]
    rest = [site.slab + site.mask for site in anatomy.sites]
    np.testing.assert_allclose(marks.get_xdata(), rest, atol=1e-4)


def plain(y):
    w = pyro.sample("w", dist.Gamma(2.0, 1.0))
    v = pyro.sample("v", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("obs", dist.Normal(w + v, 1.0), obs=y)


def test_sampled_sites_have_one_bar_and_errors(ax):
    found = elbo_anatomy(plain, AutoNormal(plain), model_args=(torch.zeros(3),), num_samples=9)
    plot_kl_by_site(found, ax=ax)
    drawn = bars(ax)
    assert list(drawn) == ["not split"]
    np.testing.assert_allclose(drawn["not split"][1], [site.kl.value for site in found.sites])
    (segments,) = [c.get_segments() for c in ax.collections]
    for site, segment in zip(found.sites, segments, strict=True):
        half = 2 * site.kl.standard_error
        np.testing.assert_allclose(
            segment[:, 0], [site.kl.value - half, site.kl.value + half], rtol=1e-6
        )


def test_an_unknown_constant_is_in_the_label(ax):
    model = vrnn.models.SequenceRegression(vrnn.nn.GRU(8, 4), 1)
    guide = vrnn.infer.AutoSpikeAndSlab(model, scale=0)
    batch = torch.randn(4, 5, 8), torch.randn(4, 1)
    plot_kl_by_site(elbo_anatomy(model, guide, model_args=batch, num_samples=2), ax=ax)
    assert ax.get_yticklabels()[0].get_text() == "rnn.weight_ih_l0 (+ constant)"


def no_latents(y):
    pyro.sample("obs", dist.Normal(0.0, 1.0).expand([3]).to_event(1), obs=y)


def test_kl_is_refused(ax, anatomy):
    with pytest.raises(TypeError, match=r"Expected anatomy .* class ELBOAnatomy .*, got int"):
        plot_kl_by_site(3, ax=ax)
    with pytest.raises(ValueError, match="Expected by to be one of 'site', 'layer', got 'x'"):
        plot_kl_by_site(anatomy, by="x", ax=ax)
    empty = elbo_anatomy(no_latents, lambda y: None, model_args=(torch.zeros(3),), num_samples=2)
    with pytest.raises(ValueError, match="Expected an anatomy of at least one latent, got none"):
        plot_kl_by_site(empty, ax=ax)
