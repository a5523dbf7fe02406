import numpy as np
import pytest

from pyro_vrnn.scores import central_interval, coverage, coverage_curve, pit, pit_coverage

Z = 4.26


def test_coverage_is_that_of_the_draws_own_intervals():
    rng = np.random.default_rng(0)
    y, draws = rng.normal(size=(60, 5)), rng.normal(size=(4_000, 60, 5))
    got = coverage_curve(pit(y, draws), levels=[0.3, 0.8])
    expected = [coverage(y, *central_interval(draws, level)).mean() for level in (0.3, 0.8)]
    # One value in 300 may lie between the rank's middle and the quantile.
    np.testing.assert_allclose(got.coverage, expected, rtol=0, atol=1 / 300 + 1e-12)


def test_coverage_at_a_level_is_the_curve_there():
    u = np.concatenate([np.random.default_rng(5).random(197), [0.05, 0.25, 0.95]])[:, None]
    curve = coverage_curve(u, levels=[0.5, 0.9])
    got = [pit_coverage(u, level).mean() for level in (0.5, 0.9)]
    np.testing.assert_array_equal(got, curve.coverage)
    assert pit_coverage(u, 0.9)[-3:].tolist() == [[1.0], [1.0], [1.0]]  # both ends count


def test_calibrated_curve_is_in_its_band_at_the_rate_and_overconfident_is_not():
    rng = np.random.default_rng(1)
    trials = 400
    curves = [coverage_curve(u) for u in rng.random((trials, 60, 1))]
    p = curves[0].band.probability
    share = np.mean([curve.inside for curve in curves])
    assert abs(share - p) < Z * np.sqrt(p * (1 - p) / trials)
    y, draws = rng.normal(size=(300, 1)), rng.normal(0, 0.6, size=(99, 300, 1))
    curve = coverage_curve(pit(y, draws))
    assert not curve.inside
    assert (curve.coverage[4:-1] < curve.levels[4:-1]).all()


def test_ranges_hold_the_level_for_each_level_by_itself():
    rng = np.random.default_rng(2)
    trials = 300
    curves = [coverage_curve(u, levels=[0.5]) for u in rng.random((trials, 80, 1))]
    share = np.mean([c.lower[0] <= 0.5 <= c.upper[0] for c in curves])
    # Percentile ranges of 80 coin flips: the flips' counts 32..48 are in, 31 and 49 are not all.
    assert share > 0.92 - Z * np.sqrt(0.92 * 0.08 / trials)


def test_rows_are_the_blocks_of_ranges_and_band():
    rows = np.random.default_rng(3).random((30, 1))
    once, often = coverage_curve(rows), coverage_curve(np.repeat(rows, 10, axis=1))
    np.testing.assert_allclose(often.lower, once.lower, rtol=0, atol=1e-12)
    assert often.band.num_values == once.band.num_values == 30


def test_a_bias_hides_in_the_curve():
    # Symmetric in coverage, not in the PIT: the docstring's warning.
    rng = np.random.default_rng(4)
    u = np.where(rng.random((400, 1)) < 0.5, rng.uniform(0, 0.25, (400, 1)), 0.5)
    u = np.where(u == 0.5, rng.uniform(0.25, 0.5, (400, 1)), u)
    assert coverage_curve(u).inside


@pytest.mark.parametrize(
    ("pit", "levels", "message"),
    [
        ([0.5, 0.5], [0.5], r"Expected pit of shape \(blocks, per block\), got \(2,\)\."),
        ([[0.5], [1.5]], [0.5], r"Expected pit in \[0, 1\], got 1\.5\."),
        ([[0.5]], [0.5], r"Expected at least 2 blocks, got 1\."),
        ([[0.5], [0.5]], [0.9, 0.5], r"Expected points to increase inside \(0, 1\)"),
    ],
    ids=["axes", "above", "one-block", "levels"],
)
def test_curve_refuses(pit, levels, message):
    with pytest.raises(ValueError, match=message):
        coverage_curve(pit, levels=levels)


@pytest.mark.parametrize(
    ("u", "level", "message"),
    [
        ([-0.1], 0.5, r"Expected pit in \[0, 1\], got -0\.1\."),
        ([0.5], 1.0, r"Expected level in \(0, 1\), got 1\.0\."),
    ],
    ids=["below", "level"],
)
def test_pit_coverage_refuses(u, level, message):
    with pytest.raises(ValueError, match=message):
        pit_coverage(u, level)
