"""Several draws of a weight, one for each sequence, from normals that are given."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import embedding

from pyro_vrnn.distributions import SpikeAndSlab
from pyro_vrnn.distributions.folded_draw import FoldedBias, FoldedMatrix, FoldedTable
from pyro_vrnn.ops.particles import linear, take_rows

N = 3
OPTIONS = {"dtype": torch.float64}


def randn(*shape):
    return torch.randn(shape, **OPTIONS)


def matrix(p=0.4, rank=4, block=(6, 1), shape=(6, 5)):
    q = SpikeAndSlab(randn(*shape), 0.3, p, block)
    masks = q.draw_factors((N, *q.grid_shape)) if p else None
    return FoldedMatrix(q, "w", masks, randn(N, rank, shape[0]))


def table(p=0.4, looks=4):
    q = SpikeAndSlab(randn(7, 4), 0.3, p, (1, 4))
    masks = q.draw_factors((N, 7, 1)) if p else None
    return FoldedTable(q, "table", masks, randn(N, looks, 4))


def bias():
    return FoldedBias(SpikeAndSlab(randn(6), 0.3, 0.0, (6,)), "b", None, randn(N, 6))


def assert_close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("p", [0.4, 0.0])
@pytest.mark.parametrize("batch_dim", [0, 1])
def test_a_linear_map(p, batch_dim):
    w, b, x = matrix(p), bias(), randn(N, 4, 5)
    found = linear(x.movedim(0, batch_dim), w, b, batch_dim=batch_dim).movedim(batch_dim, 0)
    expected = torch.einsum("nfd,nmd->nmf", w.written(), x) + b.written().unsqueeze(1)
    assert_close(found, expected)
    assert w.uses == 4


def test_a_plain_weight_with_drawn_biases():
    b, x = bias(), randn(N, 5)
    weight = randn(6, 5)
    expected = x @ weight.T + b.written()
    assert_close(linear(x, weight, b), expected)
    assert_close(torch.nn.functional.linear(x, weight, b), expected)
    assert_close(b.written(), b.q.loc + b._normals)


@pytest.mark.parametrize("p", [0.4, 0.0])
@pytest.mark.parametrize("batch_dim", [0, 1])
def test_look_ups(p, batch_dim):
    """Equal ids have one row, in one call and the next; others have other rows."""
    rows = table(p)
    ids = torch.tensor([[2, 5], [2, 2], [0, 6]])
    first = take_rows(rows, ids.movedim(0, batch_dim), batch_dim=batch_dim).movedim(batch_dim, 0)
    then = torch.tensor([[5, 1], [3, 2], [4, 0]])
    second = take_rows(rows, then, batch_dim=0)
    for found, where in ((first, ids), (second, then)):
        written = torch.stack([embedding(i, w) for i, w in zip(where, rows.written(), strict=True)])
        assert_close(found, written)
    assert rows.uses == 4
    noise = torch.cat([first, second], 1)
    kept = rows._mask[torch.arange(N)[:, None], torch.cat([ids, then], 1)] if p else 1.0
    noise = noise - kept * rows.q.loc[torch.cat([ids, then], 1)]
    assert [len({round(float(v), 9) for v in n[:, 0]}) for n in noise] == [3, 2, 3]
    assert len({round(float(v), 9) for v in noise[..., 0].flatten()}) == 8


def test_a_table_that_is_a_linear_map_too():
    tied = matrix(rank=5)
    ids, x = torch.tensor([[2, 5], [2, 2], [0, 3]]), randn(N, 5)
    found = take_rows(tied, ids.T, batch_dim=1)
    written = tied.written()
    assert_close(found.transpose(0, 1), torch.stack([written[n, ids[n]] for n in range(N)]))
    assert_close(linear(x, tied), torch.einsum("nfd,nd->nf", written, x))
    assert tied.uses == 6
    with pytest.raises(ValueError, match=r"drawn whole, got 4 directions of 5"):
        take_rows(matrix(rank=4), ids, batch_dim=0)


def test_numbers_of_normals():
    assert FoldedMatrix.numbers(matrix().q, 3) == (3, 6)
    assert FoldedMatrix.numbers(matrix().q, 9) == (5, 6)
    assert FoldedTable.numbers(table().q, 9) == (9, 4)
    assert FoldedBias.numbers(bias().q, 9) == (6,)


def test_refusals():
    with pytest.raises(ValueError, match=r"at most 1 look-ups in site 'table', got 2"):
        take_rows(table(looks=1), torch.zeros(N, 2, dtype=torch.int64), batch_dim=0)
    with pytest.raises(TypeError, match=r"site 'table', .* got it in a linear map"):
        linear(randn(N, 4), table())
    with pytest.raises(TypeError, match=r"site 'w', .* got it in a linear map, though its rows"):
        linear(randn(N, 5), matrix(block=(3, 1)))
    with pytest.raises(TypeError, match=r"site 'w', .* in a linear map, its blocks are rows"):
        matrix(block=(1, 5)).masked_weight(N)
    ids = torch.zeros(N, dtype=torch.int64)
    with pytest.raises(TypeError, match=r"site 'w', .* in a table, its blocks are no columns"):
        take_rows(matrix(block=(3, 1)), ids)
    for call in (
        lambda: take_rows(bias(), ids),
        lambda: bias().sum(),
        lambda: randn(N, 6) @ bias(),
    ):
        with pytest.raises(TypeError, match=r"Expected site 'b', .*got it in"):
            call()
    with pytest.raises(ValueError, match=r"Expected 3 sequences for site 'w', .* got 4"):
        linear(randn(4, 5), matrix())
    with pytest.raises(ValueError, match=r"masks of site 'w' of shape \(N, 1, 5\), got \(3, 5\)"):
        FoldedMatrix(matrix().q, "w", torch.ones(N, 5), randn(N, 4, 6))
    assert "shape: (6, 5)" in repr(matrix())
