import itertools

import arviz
import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtr

from pyro_vrnn.scores import ecdf, ecdf_band, effective_size, pit
from pyro_vrnn.scores.uniform_band import path_probability

Z = 4.26


def multinomial_probability(n, points, lower, upper):
    """The definition: add up every path of counts."""
    cells = np.diff(points, prepend=0.0, append=1.0)
    ranges = (range(a, b + 1) for a, b in zip(lower, upper, strict=True))
    total = 0.0
    for path in itertools.product(*ranges):
        jumps = np.diff(path, prepend=0, append=n)
        if (jumps >= 0).all():
            total += stats.multinomial.pmf(jumps, n, cells)
    return total


@pytest.mark.parametrize(
    ("lower", "upper"),
    [
        ([0, 2, 4], [3, 5, 7]),
        ([1, 1, 1], [1, 7, 7]),
        ([0, 0, 0], [7, 7, 7]),
        ([3, 3, 3], [3, 3, 3]),
    ],
    ids=["band", "first-fixed", "everything", "one-path"],
)
def test_path_probability_adds_up_every_path(lower, upper):
    points = np.array([0.2, 0.5, 0.9])
    got = path_probability(7, points, np.array(lower), np.array(upper))
    np.testing.assert_allclose(got, multinomial_probability(7, points, lower, upper), rtol=1e-12)


@pytest.mark.parametrize("n", [1, 24, 312, 5_000], ids=lambda n: f"n={n}")
@pytest.mark.parametrize("level", [0.5, 0.95], ids=str)
def test_uniform_values_stay_inside_with_the_stated_probability(n, level):
    band = ecdf_band(n, level=level)
    assert band.probability >= level
    rng = np.random.default_rng(n)
    trials = 2_000
    share = np.mean([band.contains(rng.random(n)) for _ in range(trials)])
    p = band.probability
    assert abs(share - p) < Z * np.sqrt(p * (1 - p) / trials)


@pytest.mark.parametrize("n", [50, 1_000], ids=lambda n: f"n={n}")
def test_no_narrower_band_of_this_kind_has_the_probability(n):
    band = ecdf_band(n)
    # One count less on both sides at every point is below the level: the band is not slack.
    lower = np.rint(band.lower * n).astype(int) + 1
    upper = np.rint(band.upper * n).astype(int) - 1
    assert path_probability(n, band.points, np.minimum(lower, upper), upper) < 0.95
    assert band.probability < 0.955


def arviz_band(n, points):
    """Return ArviZ's own band: 0.23's is computed, 1.x simulates the pointwise probability."""
    if int(arviz.__version__.split(".")[0]) < 1:
        from arviz.stats.ecdf_utils import ecdf_confidence_band

        return ecdf_confidence_band(n, points, points, prob=0.95, method="optimized")
    from arviz_stats.ecdf_utils import get_pointwise_confidence_band, simulate_confidence_bands

    rng = np.random.default_rng(0)
    pointwise = simulate_confidence_bands(n, 1, points, 0.95, 4_000, rng)
    return get_pointwise_confidence_band(pointwise, n, points)


@pytest.mark.parametrize("n", [10, 300], ids=lambda n: f"n={n}")
def test_band_is_that_of_arviz_to_one_count(n):
    band = ecdf_band(n)
    lower, upper = arviz_band(n, band.points)
    assert np.abs(np.rint(n * (lower - band.lower))).max() <= 1
    assert np.abs(np.rint(n * (upper - band.upper))).max() <= 1


def test_one_point_is_the_binomial_interval():
    band = ecdf_band(40, level=0.9, points=[0.3])
    counts = np.rint(np.array([band.lower[0], band.upper[0]]) * 40)
    assert counts.tolist() == list(stats.binom.ppf([0.05, 0.95], 40, 0.3))
    exact = np.diff(stats.binom.cdf([counts[0] - 1, counts[1]], 40, 0.3))[0]
    assert band.probability == pytest.approx(exact, abs=1e-12)


def test_ecdf_counts_values_at_the_point():
    got = ecdf([[0.5, 0.2], [0.5, 1.0]], [0.1, 0.2, 0.5, 1.0])
    assert got.tolist() == [0.0, 0.25, 0.75, 1.0]


def ar1(rng, correlation, shape):
    """Uniform values, the rows independent, each row an AR(1) path in normal scores."""
    noise = rng.normal(size=shape)
    path = np.empty(shape)
    path[..., 0] = noise[..., 0]
    for t in range(1, shape[-1]):
        fresh = np.sqrt(1 - correlation**2) * noise[..., t]
        path[..., t] = correlation * path[..., t - 1] + fresh
    return ndtr(path)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9, 1.0], ids=lambda r: f"r={r}")
def test_dependent_values_keep_inside_the_band_of_the_effective_size(correlation):
    rng = np.random.default_rng(5)
    trials, blocks, length = 200, 24, 13
    paths = ar1(rng, correlation, (trials, blocks, length))
    share = np.mean([ecdf_band(effective_size(u)).contains(u) for u in paths])
    # An estimate of the size, so about the level: never the 0.02 to 0.8 of the full size.
    assert share > 0.92 - Z * np.sqrt(0.92 * 0.08 / trials)
    full = np.mean([ecdf_band(blocks * length).contains(u) for u in paths])
    assert full > 0.9 if correlation == 0 else full < 0.85


def test_forecasts_with_errors_that_add_up_are_inside_at_about_the_rate():
    # Within a forecast the errors are a random walk, as those of real forecasts are.
    rng = np.random.default_rng(8)
    trials, origins, horizon = 200, 30, 6
    paths = rng.normal(size=(20, trials, origins, horizon)).cumsum(axis=-1)
    values = pit(paths[0], paths[1:])
    share = np.mean([ecdf_band(effective_size(u)).contains(u) for u in values])
    assert share > 0.92 - Z * np.sqrt(0.92 * 0.08 / trials)
    assert np.mean([ecdf_band(origins * horizon).contains(u) for u in values]) < 0.7


def test_effective_size_is_between_blocks_and_values():
    rng = np.random.default_rng(6)
    assert effective_size(ar1(rng, 1.0, (40, 8))) == 40
    assert effective_size(rng.random((40, 1))) == 40
    # Blocks that each spread their values evenly vary less than independent ones.
    assert effective_size(np.tile((np.arange(8) + 0.5) / 8, (40, 1))) == 320


def test_effective_size_of_blocks_in_pairs():
    # Each value twice in its block: half as many.
    rows = np.repeat(np.random.default_rng(7).random((2_000, 3)), 2, axis=1)
    # 99 correlated points; the variance of a sample variance bounds that of their mean.
    assert abs(effective_size(rows) / 6_000 - 1) < Z * np.sqrt(2 / 2_000)


def test_values_that_are_all_equal():
    assert effective_size(np.ones((5, 4))) == 5
    assert not ecdf_band(20).contains(np.ones(20))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ecdf_band(0), ValueError, r"Expected num_values to be a positive int, got 0\."),
        (lambda: ecdf_band(2.5), TypeError, r"Expected num_values to be a positive int, got 2\.5"),
        (lambda: ecdf_band(5, level=1.0), ValueError, r"Expected level in \(0, 1\), got 1\.0\."),
        (lambda: ecdf_band(5, points=[0.5, 0.5]), ValueError, r"Expected points to increase"),
        (lambda: ecdf_band(5, points=[0.0, 0.5]), ValueError, r"Expected points to increase"),
        (lambda: ecdf_band(5, points=[[0.5]]), ValueError, r"Expected points to increase inside"),
        (lambda: ecdf([1.5], [0.5]), ValueError, r"Expected values in \[0, 1\], got 1\.5\."),
        (lambda: ecdf([], [0.5]), ValueError, r"Expected values to hold values, got shape"),
        (lambda: effective_size([0.5]), ValueError, r"of shape \(blocks, per block\), got \(1,\)"),
        (lambda: effective_size([[0.5, 0.5]]), ValueError, r"Expected at least 2 blocks, got 1\."),
        (lambda: effective_size([[-0.1]]), ValueError, r"Expected values in \[0, 1\], got -0\.1\."),
    ],
    ids=[
        "zero", "float", "level", "equal-points", "point-0", "points-axes", "above", "none", "axes",
        "one-block", "below",
    ],
)  # fmt: skip
def test_bands_refuse(call, error, message):
    with pytest.raises(error, match=message):
        call()
