import numpy as np
import pytest
import scoringrules

from pyro_vrnn.scores import brier_score, class_nll, top_class


@pytest.fixture
def made():
    rng = np.random.default_rng(0)
    return rng.integers(3, size=(4, 3)), rng.dirichlet(np.ones(3), size=(3, 4, 3))  # (S, *, V)


@pytest.mark.parametrize("score", [class_nll, brier_score], ids=["nll", "brier"])
def test_probabilities_are_averaged_over_draws(score, made):
    y, draws = made
    got = score(y, draws)
    assert got.shape == y.shape
    np.testing.assert_allclose(got, score(y, draws.mean(axis=0)), rtol=1e-13)


def test_nll_is_of_the_mean_probability_not_the_mean_of_logs(made):
    y, draws = made
    at_y = np.take_along_axis(draws, y[None, ..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(class_nll(y, draws), -np.log(at_y.mean(axis=0)), rtol=1e-13)
    assert (class_nll(y, draws) < -np.log(at_y).mean(axis=0)).all()


def test_brier_of_two_classes_is_twice_that_of_scoringrules():
    rng = np.random.default_rng(1)
    y, p = rng.integers(2, size=50), rng.random(50)
    expected = 2 * scoringrules.brier_score(y, p)
    np.testing.assert_allclose(brier_score(y, np.stack([1 - p, p], axis=1)), expected, rtol=1e-12)


def test_brier_by_the_one_hot_definition(made):
    y, draws = made
    expected = np.square(draws.mean(axis=0) - np.eye(3)[y]).sum(axis=-1)
    np.testing.assert_allclose(brier_score(y, draws), expected, rtol=1e-12)


def test_a_class_of_probability_zero_costs_infinity():
    assert class_nll([0, 1], [[1.0, 0.0], [1.0, 0.0]]).tolist() == [0.0, np.inf]


def test_top_class_of_the_averaged_probabilities():
    # Two draws out of three like class 1 best, the average class 0.
    draws = np.array([[[0.9, 0.1]], [[0.4, 0.6]], [[0.4, 0.6]]])
    confidence, correct = top_class([0], draws)
    np.testing.assert_allclose(confidence, [1.7 / 3], rtol=1e-13)
    assert correct.tolist() == [1.0]


def test_float32_probabilities_of_a_large_vocabulary_are_let_in():
    logits = np.random.default_rng(2).normal(size=(5, 10_000)).astype(np.float32)
    weights = np.exp(logits)
    probs = weights / weights.sum(axis=-1, keepdims=True)
    assert class_nll(np.arange(5), probs).dtype == np.float64


@pytest.mark.parametrize("score", [class_nll, brier_score, top_class], ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("y", "probs", "error", "message"),
    [
        ([0.0], [[1.0, 0.0]], TypeError, r"Expected y of an integer dtype \(class ids\), got f"),
        ([2], [[1.0, 0.0]], ValueError, r"Expected y in 0\.\.1, got 2\."),
        ([-1], [[1.0, 0.0]], ValueError, r"Expected y in 0\.\.1, got -1\."),
        ([0, 1], [[1.0, 0.0]], ValueError, r"Expected probs of shape \(2, V\), or with draws"),
        ([0], [1.0], ValueError, r"Expected probs of shape \(1, V\), .*, got \(1,\)"),
        ([0], [[0.5, 0.4]], ValueError, r"Expected probs to sum to 1 over the last axis, got 0\.9"),
        ([0], [[[1.5, 0.0]], [[0.5, 0.0]]], ValueError, r"Expected probs in \[0, 1\], got 1\.5\."),
        ([0], [[-0.5, 1.0]], ValueError, r"Expected probs in \[0, 1\], got -0\.5\."),
        ([0], [[np.nan, 1.0]], ValueError, r"Expected probs in \[0, 1\], got nan\."),
    ],
    ids=["float", "high", "negative", "shape", "axes", "sum", "above", "below", "nan"],
)  # fmt: skip
def test_classes_refuse(score, y, probs, error, message):
    with pytest.raises(error, match=message):
        score(y, probs)
