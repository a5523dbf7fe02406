import numpy as np
import pytest
from scipy import stats

from pyro_vrnn.scores import ecdf_band, mixture_pit, pit

Z = 4.26


def inside_share(values, band):
    """Return the share of replications (rows) inside the band, and what it may differ by."""
    share = np.mean([band.contains(row) for row in values])
    p = band.probability
    return share, Z * np.sqrt(p * (1 - p) / len(values))


# S = 7 draws: the randomised PIT is exactly uniform however few there are.
FORECASTERS = {
    "continuous": lambda rng, shape: rng.normal(size=shape),
    "counts": lambda rng, shape: rng.poisson(0.7, size=shape),
    "constant": lambda rng, shape: np.zeros(shape),
}


@pytest.mark.parametrize("draw", FORECASTERS.values(), ids=FORECASTERS)
def test_calibrated_forecaster_is_inside_the_band_at_its_rate(draw):
    rng = np.random.default_rng(0)
    replications, n = 2_000, 80
    y, draws = draw(rng, (replications, n)), draw(rng, (7, replications, n))
    share, tolerance = inside_share(pit(y, draws, seed=1), ecdf_band(n))
    assert abs(share - ecdf_band(n).probability) < tolerance


@pytest.mark.parametrize(
    ("loc", "scale"), [(0.0, 0.6), (0.0, 1.6), (0.5, 1.0)], ids=["over", "under", "biased"]
)
def test_other_forecasters_are_outside(loc, scale):
    rng = np.random.default_rng(1)
    y, draws = rng.normal(size=(50, 300)), rng.normal(loc, scale, size=(99, 50, 300))
    share, _ = inside_share(pit(y, draws), ecdf_band(300))
    assert share == 0.0


def test_mixture_of_a_calibrated_forecaster_is_inside_at_its_rate():
    rng = np.random.default_rng(2)
    replications, n = 2_000, 80
    loc = rng.normal(size=(3, replications, n))
    scale = np.array([0.5, 1.0, 2.0])[:, None, None]
    which = rng.integers(3, size=(1, replications, n))
    chosen = np.take_along_axis(loc, which, axis=0)[0]
    y = chosen + np.take_along_axis(np.broadcast_to(scale, loc.shape), which, axis=0)[
        0
    ] * rng.normal(size=(replications, n))
    share, tolerance = inside_share(mixture_pit(y, loc, scale), ecdf_band(n))
    assert abs(share - ecdf_band(n).probability) < tolerance


def test_ranks_by_hand():
    y, draws = [0.0, 1.0, 5.0], np.array([[0.0, 1.0, 2.0]] * 3).T  # (S, 3)
    assert pit(y, draws, seed=None).tolist() == [1 / 4, 2 / 4, 3.5 / 4]


@pytest.mark.parametrize("shape", [(), (5,), (3, 3)], ids=["scalar", "S=N", "matrix"])
def test_shape_and_the_axis_of_draws(shape):
    y, draws = np.full(shape, 2.5), np.broadcast_to(np.arange(5.0)[(...,) + (None,) * len(shape)],
                                                    (5, *shape))  # fmt: skip
    got = pit(y, draws, seed=None)
    assert got.shape == shape
    assert (got == 3.5 / 6).all()


def test_seed_decides_where_in_its_rank_a_value_falls():
    y, draws = np.zeros(4), np.zeros((3, 4))
    assert pit(y, draws, seed=1).tolist() == pit(y, draws, seed=1).tolist()
    assert (pit(y, draws, seed=1) != pit(y, draws, seed=2)).all()


def test_mixture_pit_is_the_average_cdf():
    rng = np.random.default_rng(3)
    y, loc, scale = rng.normal(size=4), rng.normal(size=(4, 4)), rng.uniform(0.1, 2, (4, 4))
    expected = stats.norm.cdf(y, loc, scale).mean(axis=0)
    np.testing.assert_allclose(mixture_pit(y, loc, scale), expected, rtol=1e-13)


def test_pit_of_many_draws_tends_to_that_of_the_mixture():
    rng = np.random.default_rng(4)
    loc = np.array([[-1.0], [2.0]])
    draws = rng.normal(loc[rng.integers(2, size=40_000)], 0.7)  # (S, 1)
    exact = mixture_pit([0.4], loc, 0.7)[0]
    error = np.sqrt(exact * (1 - exact) / 40_000)
    assert abs(pit([0.4], draws)[0] - exact) < Z * error + 1 / 40_001


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pit([0.0], [[0.0, 1.0]]), r"Expected draws of shape \(S, 1\), got \(1, 2\)\."),
        (lambda: pit([0.0], [[0.0]]), r"Expected at least 2 draws, got 1\."),
        (lambda: pit([np.nan], [[0.0], [1.0]]), r"Expected y to be finite, got nan"),
        (lambda: pit([0.0], [[0.0], [np.inf]]), r"Expected draws to be finite, got inf"),
        (
            lambda: mixture_pit([0.0, 1.0], np.zeros((2, 2)), [1.0, 2.0]),
            r"Expected scale to be a number or of shape \(2, 2\)",
        ),
        (lambda: mixture_pit([0.0], [[0.0]], 0.0), r"Expected scale to be positive, got 0\.0\."),
    ],
    ids=["shape", "one-draw", "nan", "inf", "scale-axes", "scale-zero"],
)
def test_pit_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()
