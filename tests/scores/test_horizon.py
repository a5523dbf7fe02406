import numpy as np
import pytest

from pyro_vrnn.scores import block_bootstrap, by_horizon


def test_each_horizon_by_itself():
    scores = np.random.default_rng(0).normal(size=(30, 4))
    got = by_horizon(scores, seed=3)
    np.testing.assert_allclose(got.mean, scores.mean(axis=0), rtol=1e-13)
    for h in range(4):
        expected = block_bootstrap(scores[:, [h]], seed=3)
        np.testing.assert_allclose((got.mean[h], got.lower[h], got.upper[h]), expected, rtol=1e-13)
    assert got.overall == block_bootstrap(scores, seed=3)


# Origins = horizons: an exchange of the axes would not be seen in the shape.
def test_horizons_are_the_columns_of_a_square():
    got = by_horizon(np.tile(np.arange(4.0), (4, 1)))
    assert got.mean.tolist() == got.lower.tolist() == got.upper.tolist() == [0.0, 1.0, 2.0, 3.0]


def test_successive_origins_of_a_block_stay_together():
    rows = np.random.default_rng(1).normal(size=(20, 3))
    once, pairs = by_horizon(rows), by_horizon(np.repeat(rows, 2, axis=0), origins_per_block=2)
    np.testing.assert_allclose(pairs.upper - pairs.lower, once.upper - once.lower, rtol=1e-12)
    single = by_horizon(np.repeat(rows, 2, axis=0))
    assert (single.upper - single.lower < 0.85 * (once.upper - once.lower)).all()


@pytest.mark.parametrize(
    ("scores", "options", "error", "message"),
    [
        ([1.0, 2.0], {}, ValueError, r"Expected scores of shape \(origins, horizon\), got \(2,\)"),
        (
            np.ones((5, 2)),
            {"origins_per_block": 2},
            ValueError,
            r"that 2 .* divides",
        ),
        (
            np.ones((4, 2)),
            {"origins_per_block": 4},
            ValueError,
            r"at least 2 blocks, got 1\.",
        ),
        (
            np.ones((4, 2)),
            {"origins_per_block": 1.5},
            TypeError,
            r"Expected origins_per_block",
        ),
        ([[np.nan]], {}, ValueError, r"Expected scores to be finite, got nan"),
        (np.ones((4, 2)), {"level": 2.0}, ValueError, r"Expected level in \(0, 1\), got 2\.0\."),
    ],
    ids=["axes", "remainder", "one-block", "type", "nan", "level"],
)
def test_by_horizon_refuses(scores, options, error, message):
    with pytest.raises(error, match=message):
        by_horizon(scores, **options)
