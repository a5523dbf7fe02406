import re

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("Agg")
from matplotlib.figure import Figure

from pyro_vrnn.diagnostics import plot_elbo, plot_fan


@pytest.fixture
def ax():
    return Figure().add_subplot()


def band(collection):
    """Return the lower and upper end of a filled band at each of its times."""
    points = collection.get_paths()[0].vertices
    times = np.unique(points[:, 0])
    ends = [points[points[:, 0] == t, 1] for t in times]
    return np.array([e.min() for e in ends]), np.array([e.max() for e in ends])


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


# S = T: a transposed array would not be noticed by its shape.
@pytest.mark.parametrize("num_times", [4, 21], ids=["T<S", "T=S"])
def test_bands_are_quantiles_and_the_line_is_the_median(ax, num_times):
    draws = np.arange(21.0)[:, None] + 100 * np.arange(num_times)  # (S, T)
    time = np.arange(num_times) + 0.5
    assert plot_fan(draws, time, draws[3], levels=(0.5, 0.9), ax=ax) is ax
    widest, narrow = ax.collections
    base = 100.0 * np.arange(num_times)
    np.testing.assert_allclose(band(widest), [base + 1, base + 19])
    np.testing.assert_allclose(band(narrow), [base + 5, base + 15])
    median, observed = ax.lines
    np.testing.assert_allclose(median.get_xdata(), time)
    np.testing.assert_allclose(median.get_ydata(), base + 10)
    np.testing.assert_allclose(observed.get_ydata(), base + 3)


def test_narrower_bands_are_darker_and_named(ax):
    draws = np.random.default_rng(0).normal(size=(50, 3))
    plot_fan(draws, range(3), draws[0], levels=(0.5, 0.8, 0.95), ax=ax)
    assert labels(ax) == ["95 % interval", "80 % interval", "50 % interval", "median", "observed"]
    shades = [collection.get_alpha() for collection in ax.collections]
    assert shades == sorted(shades)
    assert len(set(shades)) == 3


def test_labels_are_the_callers(ax):
    plot_fan(np.zeros((2, 2)), [0, 1], xlabel="week", ylabel="CO2 (ppm)", title="Test", ax=ax)
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("week", "CO2 (ppm)", "Test")
    assert len(ax.lines) == 1


def test_dates_and_missing_observations(ax):
    time = np.array(["2020-01-05", "2020-01-12", "2020-01-19"], dtype="datetime64[D]")
    plot_fan(np.ones((4, 3)), time, [1.0, np.nan, 2.0], ax=ax)
    assert np.isnan(ax.lines[1].get_ydata()[1])
    ax.figure.canvas.draw()


@pytest.mark.parametrize(
    ("time", "observed", "draws", "message"),
    [
        (np.zeros((2, 2)), None, np.zeros((3, 2)), "Expected time of shape (T,), got (2, 2)."),
        (np.zeros(2), None, np.zeros((2, 3)), "Expected draws of shape (S, 2), got (2, 3)."),
        (np.zeros(2), np.zeros(3), np.zeros((3, 2)), "Expected observed of shape (2,), got (3,)."),
        (np.zeros(2), None, np.zeros((1, 2)), "Expected at least 2 draws, got 1."),
        (np.zeros(1), None, [[0.0], [np.nan]], "Expected draws to be finite, got nan"),
    ],
    ids=["time", "draws", "observed", "one-draw", "nan"],
)
def test_fan_refuses(ax, time, observed, draws, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        plot_fan(draws, time, observed, ax=ax)


def test_fan_refuses_a_level(ax):
    with pytest.raises(ValueError, match=re.escape("Expected level in (0, 1), got 1.5.")):
        plot_fan([[0.0], [1.0]], [0], levels=[1.5], ax=ax)


def test_elbo_and_its_running_mean(ax):
    assert plot_elbo([-9.0, -4.0, -2.0, 0.0], window=2, skip=1, ax=ax) is ax
    steps, mean = ax.lines
    assert steps.get_xydata().tolist() == [[1, -4], [2, -2], [3, 0]]
    assert mean.get_xydata().tolist() == [[2, -3], [3, -1]]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "ELBO (nats)")
    assert labels(ax) == ["each step", "mean of 2 steps"]


@pytest.mark.parametrize(
    ("elbo", "options", "message"),
    [
        ([[0.0]], {}, "Expected elbo of shape (steps,), got (1, 1)."),
        ([0.0], {"skip": 1}, "Expected skip in 0..0, got 1."),
        ([0.0, 1.0], {"window": 3}, "Expected window of at most 2 steps, got 3."),
    ],
    ids=["shape", "skip", "window"],
)
def test_elbo_refuses(ax, elbo, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        plot_elbo(elbo, ax=ax, **options)
