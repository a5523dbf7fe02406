import pytest
import torch

from pyro_vrnn.ops.mixture_median import mixture_median


def normal_cdf(x):
    return torch.special.ndtr(x)


@pytest.mark.parametrize("p", [0.01, 0.25, 0.49, 0.5, 0.51, 0.9], ids=str)
def test_half_of_the_mass_lies_below(p):
    d = torch.tensor([0.0, 1e-3, 0.5, 2.0, 5.0, 9.0], dtype=torch.float64)
    median = mixture_median(d, p)
    below = p * normal_cdf(median) + (1 - p) * normal_cdf(median - d)
    torch.testing.assert_close(below, torch.full_like(d, 0.5), rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("p", "expected"),
    [(0.0, 1e6), (1.0, 0.0), (0.5, 5e5), (0.9, 0.13971029), (0.1, 1e6 - 0.13971029)],
    ids=str,
)
def test_limits_far_apart(p, expected):
    # 0.9 * (2 * ndtr(t) - 1) = 0.1 at t = 0.13971029
    median = mixture_median(torch.tensor(1e6), p)
    torch.testing.assert_close(
        median, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-8
    )


def test_shapes_broadcast():
    assert mixture_median(torch.rand(4, 1), torch.rand(3)).shape == (4, 3)
