import re

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("Agg")
from matplotlib import pyplot
from matplotlib.figure import Figure

from pyro_vrnn.diagnostics import (
    check_classes,
    check_forecasts,
    plot_coverage,
    plot_horizon,
    plot_pit,
    plot_reliability,
)
from pyro_vrnn.scores import by_horizon, coverage_curve, ecdf_band, effective_size, reliability


@pytest.fixture
def ax():
    return Figure().add_subplot()


@pytest.fixture
def check():
    rng = np.random.default_rng(0)
    return check_forecasts(rng.normal(size=(30, 25, 4)), rng.normal(size=(25, 4)))


def ends(collection):
    """Return the lower and upper end of a filled band at each of its places."""
    points = collection.get_paths()[0].vertices
    sides = [points[points[:, 0] == x, 1] for x in np.unique(points[:, 0])]
    return np.array([s.min() for s in sides]), np.array([s.max() for s in sides])


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def bars(ax):
    """Return the ends of an errorbar's bars, ``(points, 2)``."""
    container = ax.containers[0]
    return np.array([segment[:, 1] for segment in container[2][0].get_segments()])


def test_pit_is_the_difference_to_the_uniform_cdf_in_its_band(ax, check):
    assert plot_pit(check, ax=ax, label="model") is ax
    _, curve = ax.lines
    x = np.concatenate([[0], check.band.points, [1]])
    shares = [(check.pit <= point).mean() for point in x]
    np.testing.assert_allclose(curve.get_xdata(), x, rtol=1e-14)
    np.testing.assert_allclose(curve.get_ydata(), shares - x, rtol=0, atol=1e-14)
    lower, upper = ends(ax.collections[0])
    np.testing.assert_allclose(lower[1:-1], check.band.lower - x[1:-1], rtol=0, atol=1e-12)
    np.testing.assert_allclose(upper[1:-1], check.band.upper - x[1:-1], rtol=0, atol=1e-12)
    assert lower[[0, -1]].tolist() == upper[[0, -1]].tolist() == [0.0, 0.0]
    assert labels(ax) == ["95% band", "model"]


@pytest.mark.parametrize("shape", [(60,), (20, 3)], ids=["values", "blocks"])
def test_pit_of_values_has_the_band_of_their_effective_size(ax, shape):
    values = np.random.default_rng(1).random(shape)
    plot_pit(values, ax=ax)
    band = ecdf_band(effective_size(values.reshape(len(values), -1)))
    lower, _ = ends(ax.collections[0])
    np.testing.assert_allclose(lower[1:-1], band.lower - band.points, rtol=0, atol=1e-12)


def test_pit_in_a_given_band(ax):
    plot_pit([0.2, 0.8], ax=ax, band=ecdf_band(5, level=0.5, points=[0.5]))
    assert ax.lines[1].get_xydata().tolist() == [[0, 0], [0.5, 0.0], [1, 0]]


def test_coverage_has_the_curve_its_ranges_and_its_band(ax):
    curve = coverage_curve(np.random.default_rng(2).random((50, 1)), levels=[0.2, 0.5, 0.9])
    assert plot_coverage(curve, ax=ax, label="model") is ax
    line = ax.containers[0][0]
    np.testing.assert_allclose(line.get_xdata(), curve.levels)
    np.testing.assert_allclose(line.get_ydata(), curve.coverage)
    np.testing.assert_allclose(bars(ax), np.stack([curve.lower, curve.upper], 1), atol=1e-12)
    lower, upper = ends(ax.collections[0])
    np.testing.assert_allclose(lower, [0, *curve.band.lower, 1])
    np.testing.assert_allclose(upper, [0, *curve.band.upper, 1])


def test_coverage_of_a_check_is_that_of_its_curve(ax, check):
    plot_coverage(check, ax=ax)
    np.testing.assert_allclose(ax.containers[0][0].get_ydata(), check.coverage.coverage)


def test_horizons_count_from_one(ax):
    scores = by_horizon(np.random.default_rng(3).normal(size=(20, 5)))
    assert plot_horizon(scores, ax=ax, label="model", ylabel="CRPS (ppm)") is ax
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [1, 2, 3, 4, 5])
    np.testing.assert_allclose(ax.lines[0].get_ydata(), scores.mean)
    lower, upper = ends(ax.collections[0])
    np.testing.assert_allclose((lower, upper), (scores.lower, scores.upper))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("steps ahead", "CRPS (ppm)")
    assert all(float(tick).is_integer() for tick in ax.get_xticks())


def test_reliability_has_points_intervals_and_bins(ax):
    rng = np.random.default_rng(4)
    p = rng.random(200)
    bins = reliability(p, rng.random(200) < p, num_bins=5, binning="width")
    assert plot_reliability(bins, ax=ax, label="model") is ax
    line = ax.containers[0][0]
    np.testing.assert_allclose(line.get_xdata(), bins.confidence)
    np.testing.assert_allclose(line.get_ydata(), bins.frequency)
    np.testing.assert_allclose(bars(ax), np.stack([bins.lower, bins.upper], 1), atol=1e-12)
    foot = next(other for other in ax.figure.axes if other is not ax)
    np.testing.assert_allclose([bar.get_height() for bar in foot.patches], bins.count / 200)
    np.testing.assert_allclose([bar.get_x() for bar in foot.patches], bins.lower_edge)
    np.testing.assert_allclose([bar.get_width() for bar in foot.patches], 0.2)
    assert foot.get_zorder() < ax.get_zorder()
    assert labels(ax) == ["model"]


def test_reliability_of_a_check(ax):
    rng = np.random.default_rng(5)
    check = check_classes(rng.dirichlet([1, 1], size=90), rng.integers(2, size=90))
    plot_reliability(check, ax=ax)
    np.testing.assert_allclose(ax.containers[0][0].get_ydata(), check.reliability.frequency)


@pytest.mark.parametrize(
    "plot",
    [
        plot_pit,
        plot_coverage,
        lambda check: plot_horizon(check.crps),
        lambda check: plot_reliability(reliability([0.5, 0.5], [0, 1])),
    ],
    ids=["pit", "coverage", "horizon", "reliability"],
)
def test_axes_are_made_where_none_are_given(plot, check):
    made = plot(check)
    made.figure.canvas.draw()
    pyplot.close(made.figure)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.5], "Expected pit in [0, 1], got 1.5."),
        (np.ones((2, 2, 2)), "Expected pit of shape (N,) or (blocks, per block), got (2, 2, 2)."),
    ],
    ids=["above", "axes"],
)
def test_pit_refuses(ax, values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        plot_pit(values, ax=ax)
