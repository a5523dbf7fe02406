import pytest
import torch

from pyro_vrnn.ops import blocks

CASES = [
    ((), (6, 4), (3, 1)),
    ((), (6, 4), (1, 4)),
    ((2,), (6, 4), (6, 2)),
    ((2, 3), (4,), (2,)),
    ((), (4, 4, 4), (2, 4, 1)),
]
IDS = ["gate-columns", "rows", "batch", "vector", "three-dims"]


def block_slices(event_shape, block_shape):
    """Yield the index in the grid and the slices of every block."""
    grid = [e // b for e, b in zip(event_shape, block_shape, strict=True)]
    for index in torch.cartesian_prod(*[torch.arange(g) for g in grid]).reshape(-1, len(grid)):
        where = tuple(int(i) for i in index)
        yield (
            where,
            tuple(slice(i * b, (i + 1) * b) for i, b in zip(where, block_shape, strict=True)),
        )


@pytest.mark.parametrize(("batch", "event", "block"), CASES, ids=IDS)
def test_square_sums_and_their_gradient(batch, event, block):
    x = torch.randn(*batch, *event, dtype=torch.float64, requires_grad=True)
    sums = blocks.block_square_sums(x, block)
    weights = torch.randn_like(sums)
    expected = torch.zeros_like(sums)
    for where, part in block_slices(event, block):
        expected[(..., *where)] = x[(..., *part)].square().flatten(len(batch)).sum(-1)
    torch.testing.assert_close(sums, expected, rtol=1e-13, atol=0)
    (grad,) = torch.autograd.grad((weights * sums).sum(), x)
    (expected_grad,) = torch.autograd.grad((weights * expected).sum(), x)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-13, atol=0)


@pytest.mark.parametrize(("batch", "event", "block"), CASES, ids=IDS)
def test_scale_blocks_multiplies_each_block(batch, event, block):
    x = torch.randn(*batch, *event)
    factor = torch.randn(*batch, *blocks.grid_shape(event, block))
    expected = x.clone()
    for where, part in block_slices(event, block):
        one = factor[(..., *where)]
        expected[(..., *part)] *= one.reshape(*batch, *(1 for _ in event))
    assert torch.equal(blocks.scale_blocks(x, factor, block), expected)


@pytest.mark.parametrize(("batch", "event", "block"), CASES, ids=IDS)
def test_float32_is_summed_in_pieces_in_float64(batch, event, block, monkeypatch):
    x = torch.randn(*batch, *event)
    expected = blocks.block_square_sums(x.double(), block)
    monkeypatch.setattr(blocks, "_PIECE", 3)
    torch.testing.assert_close(blocks.block_square_sums(x, block), expected, rtol=1e-14, atol=0)


def test_sum_event_counts_what_it_does_not_hold():
    x = torch.tensor([[[1.0], [2.0]]])  # (1, 2, 1), for an event of shape (2, 5)
    assert blocks.sum_event(x, (2, 5)).tolist() == [15.0]
    assert blocks.sum_event(torch.tensor(2.0), (2, 5)).item() == 20.0


@pytest.mark.parametrize("block", [(4, 1), (2,), (1, 3)], ids=str)
def test_blocks_that_do_not_tile_are_refused(block):
    with pytest.raises(
        ValueError, match=r"Expected block_shape to tile an event of shape \(6, 4\)"
    ):
        blocks.grid_shape((6, 4), block)
