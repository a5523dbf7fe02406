"""How low the log of a mean over few draws is, against many repetitions."""

from __future__ import annotations

import math

import pytest
import torch

from pyro_vrnn.ops.log_mean import log_mean_deficit

Z = 4.26


def deficits(log_p, num_samples):
    """Return the logs of the means, and the estimates of their deficits, of draws (S, *)."""
    log_mean = log_p.logsumexp(0) - math.log(num_samples)
    log_square = (2 * log_p).logsumexp(0) - math.log(num_samples)
    return log_mean, log_mean_deficit(log_mean, log_square, num_samples)


@pytest.mark.parametrize("num_samples", [5, 20], ids=str)
def test_deficit_is_that_of_many_repetitions(num_samples):
    """Of log-normals p with E p = 1 the limit is 0; the next term is of order (Var / S)^2."""
    generator = torch.Generator().manual_seed(0)
    sd, count = 0.3, 200_000
    normals = torch.randn(num_samples, count, generator=generator, dtype=torch.float64)
    log_mean, found = deficits(sd * normals - sd**2 / 2, num_samples)
    first = math.expm1(sd**2) / (2 * num_samples)
    corrected = log_mean + found
    error = float(corrected.std()) / count**0.5
    assert abs(float(corrected.mean())) < Z * error + first**2
    assert float(log_mean.mean()) < -Z * error - first**2  # it is needed


def test_equal_draws_have_none_and_one_of_many_has_a_half():
    p = torch.tensor([[0.3, 1.0], [0.3, 1e-300], [0.3, 1e-300]], dtype=torch.float64)
    found = deficits(p.log(), 3)[1]
    torch.testing.assert_close(found, torch.tensor([0.0, 0.5], dtype=torch.float64))
