import sys

import numpy as np
import pytest
from scipy.special import ndtr

from pyro_vrnn.scores import crps


def direct_fair_crps(y, draws):
    """The definition, with every pair of draws."""
    num_draws = len(draws)
    to_y = np.abs(draws - y).mean(axis=0)
    pairs = np.abs(draws[:, None] - draws[None, :]).sum(axis=(0, 1))
    return to_y - pairs / (2 * num_draws * (num_draws - 1))


@pytest.mark.parametrize(
    "shape",
    [(), (1,), (5,), (7, 7), (1, 3), (2, 3, 4)],
    ids=["scalar", "one", "vector", "S=N=H", "one-row", "three-axes"],
)
@pytest.mark.parametrize("level", [0.0, 400.0], ids=["centred", "large-level"])
def test_crps_is_the_fair_estimator(shape, level):
    rng = np.random.default_rng(1)
    y, draws = level + rng.normal(size=shape), level + rng.normal(size=(7, *shape))
    got = crps(y, draws)
    assert got.shape == shape
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, direct_fair_crps(y, draws), rtol=0, atol=1e-12)


def test_crps_of_two_draws_by_hand():
    # E|x - y| = (1 + 4) / 2, E|x - x'| / 2 over pairs that differ = 5 / 2: fair is 0, biased 1.25.
    assert crps([1.0], [[0.0], [5.0]]).tolist() == [0.0]


def test_crps_mean_over_ensembles_is_the_score_of_the_distribution():
    rng = np.random.default_rng(2)
    y = 0.3
    scores = crps(np.full(20_000, y), rng.normal(size=(3, 20_000)))
    density = np.exp(-0.5 * y**2) / np.sqrt(2 * np.pi)
    exact = y * (2 * ndtr(y) - 1) + 2 * density - 1 / np.sqrt(np.pi)
    assert abs(scores.mean() - exact) < 4.26 * scores.std(ddof=1) / np.sqrt(len(scores))


def test_crps_does_not_reorder_the_callers_draws():
    draws = np.array([[3.0], [1.0], [2.0]])
    crps([0.0], draws)
    assert draws.ravel().tolist() == [3.0, 1.0, 2.0]


def test_crps_of_many_draws_needs_memory_linear_in_draws():
    # All pairs of 20,000 draws would be 3.2 GB a value.
    draws = np.random.default_rng(3).normal(size=(20_000, 2))
    assert crps([0.0, 0.0], draws).shape == (2,)


@pytest.mark.parametrize(
    ("y", "draws", "message"),
    [
        ([0.0, 1.0], [[0.0, 1.0]], r"Expected at least 2 draws, got 1\."),
        (
            [0.0, 1.0],
            [[0.0], [1.0]],
            r"Expected draws of shape \(S, 2\), got \(2, 1\)\.",
        ),
        (0.0, 1.0, r"Expected draws of shape \(S,\), got \(\)\."),
        ([np.nan], [[0.0], [1.0]], r"Expected y to be finite, got nan at index \(0,\)\."),
        ([0.0], [[0.0], [np.inf]], r"Expected draws to be finite, got inf at index \(1, 0\)\."),
        (np.zeros(0), np.zeros((3, 0)), r"Expected y to hold values, got shape \(0,\)\."),
    ],
    ids=["one-draw", "shape", "scalar-draws", "nan", "inf", "empty"],
)
def test_crps_refuses(y, draws, message):
    with pytest.raises(ValueError, match=message):
        crps(y, draws)


def test_crps_without_scoringrules_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "scoringrules", None)
    with pytest.raises(ImportError, match=r"Expected the package scoringrules.*pyro-vrnn\[demo\]"):
        crps([0.0], [[0.0], [1.0]])
