"""A table drawn row by row: the same law, the same rows whenever they are read."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import kl_divergence

from pyro_vrnn.distributions import SpikeAndSlab
from pyro_vrnn.distributions.deferred import RowByRow
from pyro_vrnn.distributions.lazy_rows import LazyRows
from pyro_vrnn.ops.particles import take_rows
from tests.infer.cases import standard_error

Z = 4.26


def table(drop_prob=0.3, scale=0.1, rows=50, columns=4, **options):
    loc = torch.full((rows, columns), 100.0, **options).requires_grad_()
    return SpikeAndSlab(loc, scale, drop_prob, (1, columns))


@pytest.mark.parametrize("read", [take_rows, torch.nn.functional.embedding], ids=["ops", "torch"])
def test_rows_are_those_of_the_whole(read, device):
    draw = RowByRow(table(device=device)).rsample()
    ids = torch.tensor([[3, 7, 3], [49, 0, 7]], device=device)
    rows = read(draw, ids) if read is take_rows else read(ids, draw)
    again = take_rows(draw, ids.flip(0)).flip(0)
    whole = draw + 0.0  # any other operation reads all of it
    assert rows.shape == (2, 3, 4)
    assert whole.shape == (50, 4)
    assert torch.equal(rows, again)
    assert torch.equal(rows, whole[ids])
    assert torch.equal(take_rows(draw, ids), rows)


def test_other_rows_come_later(device):
    """A second look-up draws what is new and keeps what is there."""
    draw = RowByRow(table(device=device)).rsample()
    first = take_rows(draw, torch.tensor([1, 2], device=device))
    later = take_rows(draw, torch.tensor([2, 3, 1], device=device))
    assert torch.equal(later[[2, 0]], first)
    assert torch.equal((draw + 0.0)[:4][[2, 3, 1]], later)


def test_only_what_is_looked_up_is_drawn(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the whole table was drawn")

    draw = RowByRow(table()).rsample()
    monkeypatch.setattr(LazyRows, "whole", refuse)
    assert take_rows(draw, torch.tensor([5])).shape == (1, 4)
    assert draw.shape == (50, 4)
    assert (draw.dim(), draw.dtype, draw.device.type) == (2, torch.float32, "cpu")


def test_rows_have_the_law_of_the_table(device):
    q = table(drop_prob=0.3, scale=1.0, rows=4000, device=device)
    draw = RowByRow(q).rsample()
    ids = torch.arange(4000, device=device)
    rows = take_rows(draw, ids).detach()
    kept = rows.mean(1) > 50
    rate, error = kept.double().mean().item(), standard_error(0.7, 4000)
    assert abs(rate - 0.7) < Z * error
    noise = (rows - 100 * kept.unsqueeze(1)).double()
    assert abs(noise.mean().item()) < Z / 16_000**0.5
    assert abs(noise.var().item() - 1) < Z * (2 / 16_000) ** 0.5


def test_density_and_divergence_are_the_base_s(device):
    base = table(dtype=torch.float64, device=device)
    q = RowByRow(base)
    draw = q.rsample()
    rows = take_rows(draw, torch.arange(0, 50, 3, device=device))
    prior = torch.distributions.Normal(torch.zeros_like(base.loc), 1.0)
    prior = torch.distributions.Independent(prior, 2)
    torch.testing.assert_close(q.log_prob(draw), base.log_prob(draw.whole()))
    torch.testing.assert_close(prior.log_prob(draw), prior.log_prob(draw.whole()))
    assert torch.equal(kl_divergence(q, prior), kl_divergence(base, prior))
    (grad,) = torch.autograd.grad(rows.sum(), base.loc)
    kept = (draw.whole().mean(1) > 50).double()
    kept[[i for i in range(50) if i % 3]] = 0
    torch.testing.assert_close(grad, kept.unsqueeze(1).expand(50, 4).contiguous())


def test_scale_of_each_weight_follows_its_row(device):
    scale = torch.rand(50, 4, device=device).requires_grad_()
    q = SpikeAndSlab(torch.zeros(50, 4, device=device), scale, 0.3, (1, 4))
    draw = RowByRow(q).rsample()
    ids = torch.tensor([4, 9], device=device)
    (grad,) = torch.autograd.grad(take_rows(draw, ids).sum(), scale)
    noise = take_rows(draw, ids) / scale[ids]
    torch.testing.assert_close(grad[ids], noise)


def test_particles_are_whole():
    q = RowByRow(table())
    assert q.expand(()) is q
    assert isinstance(q.expand((3, 1)), SpikeAndSlab)
    assert type(q.rsample((2,))) is torch.Tensor
    assert "row by row" in repr(q.rsample())


def test_single_weights_of_rows(device):
    """Blocks of one weight are drawn with their row, each by itself."""
    loc = torch.full((3000, 4), 100.0, device=device)
    draw = RowByRow(SpikeAndSlab(loc, 1.0, 0.3, (1, 1))).rsample()
    ids = torch.arange(0, 3000, 2, device=device)
    rows = take_rows(draw, ids)
    kept = (rows > 50).double()
    error = standard_error(0.7, kept.numel())
    assert abs(kept.mean().item() - 0.7) < Z * error
    both = (kept[:, 1:] * kept[:, :-1]).mean().item()
    assert abs(both - 0.49) < Z * standard_error(0.49, kept.shape[0])
    whole = draw.whole()
    assert torch.equal(whole[ids], rows)
    rest = (whole[1::2] > 50).double().mean().item()
    assert abs(rest - 0.7) < Z * error
