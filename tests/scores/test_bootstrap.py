import numpy as np
import pytest
from scipy import stats

from pyro_vrnn.scores import block_bootstrap

Z95 = 1.959964


def test_range_is_that_of_the_normal_mean():
    values = np.random.default_rng(0).normal(size=(400, 5))
    got = block_bootstrap(values, num_resamples=20_000)
    # Given the values, resampled means have this standard error (divisor B, not B - 1) and this
    # first Edgeworth term beside the normal.
    rows = values.mean(axis=1)
    error = rows.std(ddof=0) / np.sqrt(400)
    shift = error * stats.skew(rows) / np.sqrt(400) * (Z95**2 - 1) / 6
    assert got.mean == pytest.approx(values.mean(), abs=1e-14)
    # A percentile of R normals has standard error sqrt(p (1 - p) / R) / density.
    density = np.exp(-0.5 * Z95**2) / np.sqrt(2 * np.pi)
    tolerance = 4.26 * np.sqrt(0.025 * 0.975 / 20_000) / density * error
    assert abs(got.lower - (got.mean + shift - Z95 * error)) < tolerance
    assert abs(got.upper - (got.mean + shift + Z95 * error)) < tolerance


def test_range_covers_the_true_mean_at_its_level():
    rng = np.random.default_rng(1)
    trials, level = 400, 0.8
    hits = 0
    for trial in range(trials):
        got = block_bootstrap(
            rng.normal(size=(50, 1)), level=level, num_resamples=2_000, seed=trial
        )
        hits += got.lower <= 0.0 <= got.upper
    # Of 50 normal blocks the range is a t interval with the normal's quantile and divisor B.
    reach = stats.norm.ppf(0.9) * np.sqrt(49 / 50)
    expected = 1 - 2 * stats.t.sf(reach, df=49)
    error = np.sqrt(expected * (1 - expected) / trials)
    assert abs(hits / trials - expected) < 4.26 * error


def test_whole_blocks_are_resampled():
    # Rows of one repeated value: the range must not shrink with the length of the row.
    rows = np.random.default_rng(2).normal(size=(30, 1))
    once, often = block_bootstrap(rows), block_bootstrap(np.repeat(rows, 100, axis=1))
    np.testing.assert_allclose(often, once, rtol=0, atol=1e-12)


def test_axes_are_not_exchangeable_in_a_square_array():
    # Every row has mean 1.5, every column another: resampling columns would give a wide range.
    got = block_bootstrap(np.tile(np.arange(4.0), (4, 1)))
    assert got == (1.5, 1.5, 1.5)


def test_seed_decides_the_range():
    values = np.random.default_rng(3).normal(size=(20, 2))
    assert block_bootstrap(values, seed=1) == block_bootstrap(values, seed=1)
    assert block_bootstrap(values, seed=1) != block_bootstrap(values, seed=2)


def test_higher_level_is_wider():
    values = np.random.default_rng(4).normal(size=(20, 2))
    inner, outer = block_bootstrap(values, level=0.5), block_bootstrap(values, level=0.99)
    assert outer.lower < inner.lower < inner.upper < outer.upper


@pytest.mark.parametrize(
    ("values", "options", "error", "message"),
    [
        ([1.0, 2.0], {}, ValueError, r"Expected values of shape \(blocks, per block\), got \(2,\)"),
        ([[1.0, 2.0]], {}, ValueError, r"Expected at least 2 blocks, got 1\."),
        ([[1.0], [np.nan]], {}, ValueError, r"Expected values to be finite, got nan at index"),
        ([[1.0], [2.0]], {"level": 1.0}, ValueError, r"Expected level in \(0, 1\), got 1\.0\."),
        (
            [[1.0], [2.0]],
            {"num_resamples": 0},
            ValueError,
            r"Expected num_resamples to be a positive int, got 0\.",
        ),
        ([[1.0], [2.0]], {"level": "95%"}, TypeError, r"Expected level to be a number in \(0, 1\)"),
    ],
    ids=["one-axis", "one-block", "nan", "level", "resamples", "level-type"],
)
def test_block_bootstrap_refuses(values, options, error, message):
    with pytest.raises(error, match=message):
        block_bootstrap(values, **options)


def test_masked_values_do_not_count():
    rng = np.random.default_rng(5)
    values = rng.normal(size=(25, 4))
    mask = np.arange(4) < rng.integers(1, 5, size=(25, 1))
    got = block_bootstrap(values, mask=mask)
    assert got.mean == pytest.approx(values[mask].mean(), abs=1e-14)
    assert got == block_bootstrap(np.where(mask, values, 1e6), mask=mask)
    # The ratio's delta-method error; the range is about +-1.96 of it, to the skewness's order.
    residual = np.where(mask, values - got.mean, 0).sum(axis=1)
    error = np.sqrt(np.square(residual).sum()) / mask.sum()
    assert (got.upper - got.lower) / (2 * Z95 * error) == pytest.approx(1, abs=0.15)


def test_resamples_in_parts_are_those_of_one(monkeypatch):
    values = np.random.default_rng(6).normal(size=(10, 3))
    whole = block_bootstrap(values, num_resamples=100)
    monkeypatch.setattr("pyro_vrnn.scores.bootstrap.MAX_PICKED", 80)
    assert block_bootstrap(values, num_resamples=100) == whole


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (np.ones((2, 2)), TypeError, r"Expected mask of dtype bool, got float64\."),
        (np.ones((2, 1), bool), ValueError, r"Expected mask of shape \(2, 2\), got \(2, 1\)\."),
        (
            [[True, False], [False, False]],
            ValueError,
            r"Expected mask to keep a value of each block, got none of block 1\.",
        ),
    ],
    ids=["dtype", "shape", "empty-block"],
)
def test_mask_is_checked(mask, error, message):
    with pytest.raises(error, match=message):
        block_bootstrap(np.zeros((2, 2)), mask=mask)
