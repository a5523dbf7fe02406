"""A draw for each sequence: what it stands for, what it keeps, what it refuses."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from pyro_vrnn.distributions import BlockDropout, SpikeAndSlab
from pyro_vrnn.distributions.deferred import PerSequence
from pyro_vrnn.distributions.sequence_draw import SequenceCount, SequenceDraw
from pyro_vrnn.ops.particles import embedding, linear, take_rows
from tests.infer.cases import standard_error

Z = 4.26


def columns(drop_prob=0.3, scale=0.1, gates=1, **options):
    """Return q of a (6, 5) matrix whose blocks are its columns."""
    options = {"dtype": torch.float64, **options}
    loc = torch.randn(6, 5, **options).requires_grad_()
    return SpikeAndSlab(loc, scale, drop_prob, (6 // gates, 1))


def rows(drop_prob=0.3, scale=0.1, num_rows=9, **options):
    """Return q of a table of 4 columns whose blocks are its rows."""
    loc = torch.full((num_rows, 4), 100.0, **options).requires_grad_()
    return SpikeAndSlab(loc, scale, drop_prob, (1, 4))


def draw(q, name="w", count=None):
    return PerSequence(q, name, count or SequenceCount()).rsample()


@pytest.mark.parametrize("gates", [1, 3])
def test_masks_come_at_first_use_and_stay(gates, device):
    value = draw(columns(gates=gates, device=device))
    assert "masks not drawn yet" in repr(value)
    weight = value.masked_weight(7)
    assert weight.mask.shape == (7, gates, 5)
    assert weight.noise.shape == (6, 5)
    again = value.masked_weight(7)
    assert again.mask is weight.mask
    assert again.noise is weight.noise
    assert f"masks: (7, {gates}, 5)" in repr(value)


@pytest.mark.parametrize("gates", [1, 2])
def test_each_weight_has_the_law_of_q(gates, device):
    q = columns(drop_prob=0.3, gates=gates, device=device)
    mask = draw(q).masked_weight(5000).mask.double()
    error = standard_error(0.7, 5000)
    assert (mask.mean(0) - 0.7).abs().max() < Z * error
    # Masks of sequences, gates and columns are independent of each other.
    flat = mask.flatten(1)
    off_diagonal = torch.corrcoef(flat.T) - torch.eye(flat.shape[1], device=device)
    assert off_diagonal.abs().max() < Z / 5000**0.5
    noise = draw(SpikeAndSlab(torch.zeros(200, 50, device=device), 2.0, 0.3, (200, 1)))
    found = noise.masked_weight(2).noise.double()
    assert abs(found.var().item() - 4) < Z * 4 * (2 / 10_000) ** 0.5


def test_no_noise_without_scale(device):
    q = columns(device=device)
    q.has_noise = False
    assert draw(q).masked_weight(3).noise is None


@pytest.mark.parametrize(
    ("shape", "batch_dim"), [((7, 5), None), ((7, 4, 5), 0), ((4, 7, 5), 1), ((4, 7, 5), -2)]
)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_linear_is_each_sequence_s_own(shape, batch_dim, bias, device):
    value = draw(columns(device=device))
    x = torch.randn(shape, dtype=torch.float64, device=device)
    b = torch.randn(6, dtype=torch.float64, device=device) if bias else None
    found = linear(x, value, b, batch_dim=batch_dim)
    along = 0 if batch_dim is None else batch_dim
    dense = value.masked_weight(7).dense()
    expected = torch.stack(
        [torch.nn.functional.linear(x.select(along, n), dense[n], b) for n in range(7)], along
    )
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    leaf = value.q.loc
    weights = torch.randn_like(found)
    grads = [torch.autograd.grad((y * weights).sum(), leaf)[0] for y in (found, expected)]
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-10)


def test_torch_s_linear_and_embedding_are_ours(device):
    value, x = draw(columns(device=device)), torch.randn(7, 5, dtype=torch.float64, device=device)
    assert torch.equal(torch.nn.functional.linear(x, value), linear(x, value))
    value, ids = draw(rows(device=device)), torch.arange(7, device=device)
    assert torch.equal(torch.nn.functional.embedding(ids, value), take_rows(value, ids))
    with pytest.raises(TypeError, match=r"embedding\(\) with options"):
        torch.nn.functional.embedding(ids, value, padding_idx=0)


@pytest.mark.parametrize("batch_dim", [0, 1])
def test_an_embedding_drops_word_types_by_sequence(batch_dim, device):
    """All occurrences of a type in a sequence go together, and sequences are independent."""
    ids = torch.randint(9, (400, 30), device=device)
    value = draw(rows(scale=0.01, device=device))
    given = ids if batch_dim == 0 else ids.T
    found = take_rows(value, given, batch_dim=batch_dim)
    kept = found.mean(-1) > 50
    kept = kept if batch_dim == 0 else kept.T
    one_hot = torch.nn.functional.one_hot(ids, 9).double()  # (N, T, V)
    count = one_hot.sum(1)
    times_kept = (one_hot * kept.unsqueeze(-1)).sum(1)
    assert ((times_kept == 0) | (times_kept == count)).all()
    occurs = count > 0
    rate = (times_kept > 0)[occurs].double().mean().item()
    assert abs(rate - 0.7) < Z * standard_error(0.7, int(occurs.sum()))
    by_sequence = (times_kept > 0).double().sum(1) / occurs.double().sum(1)
    assert by_sequence.std() > 0.1  # not one mask for the batch
    assert torch.equal(take_rows(value, given, batch_dim=batch_dim), found)


def test_an_embedding_shares_the_noise(device):
    value = draw(rows(scale=1.0, device=device))
    ids = torch.tensor([[3, 5], [3, 3]], device=device)
    found = take_rows(value, ids, batch_dim=0).detach()
    noise = found - 100 * (found.mean(-1, keepdim=True) > 50)
    torch.testing.assert_close(noise[0, 0], noise[1, 0], rtol=0, atol=1e-4)
    assert (noise[0, 0] - noise[0, 1]).abs().max() > 0.01


def test_padding_has_no_vector(device):
    value = draw(rows(device=device))
    ids = torch.tensor([[2, 0], [9, 2]], device=device)
    found = embedding(ids, value, padding_idx=2, batch_dim=0)
    assert (found[ids == 2] == 0).all()
    assert (found[ids != 2] != 0).all()


def test_sites_of_a_call_agree_on_the_sequences(device):
    count = SequenceCount()
    first, second = draw(columns(device=device), "a", count), draw(rows(device=device), "b", count)
    first.masked_weight(7)
    with pytest.raises(ValueError, match=r"Expected 7 sequences for site 'b', .* 'a' .*, got 3"):
        take_rows(second, torch.zeros(3, 2, dtype=torch.long, device=device), batch_dim=0)
    with pytest.raises(ValueError, match=r"Expected 7 sequences for site 'a'.*, got 8"):
        first.masked_weight(8)


REFUSED = {
    "matmul": lambda w: torch.ones(2, 5, dtype=w.dtype) @ w.T,
    "at": lambda w: w @ torch.ones(5, dtype=w.dtype),
    "r-at": lambda w: torch.ones(6, dtype=w.dtype) @ w,
    "linear-of-gates": lambda _: linear(
        torch.ones(3, 5).double(), draw(columns(gates=2))
    ),
    "mm": lambda w: torch.mm(w, torch.ones(5, 2, dtype=w.dtype)),
    "index": lambda w: w[0],
    "to": lambda w: w.to("cpu"),
    "reshape": lambda w: w.reshape(-1),
    "sum": lambda w: w.sum(),
    "stack": lambda w: torch.stack([w, w]),
    "lstm": lambda w: torch._VF.rnn_tanh(
        torch.ones(1, 1, 5, dtype=w.dtype), torch.ones(1, 1, 6, dtype=w.dtype), [w, w],
        False, 1, 0.0, False, False, False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("use", REFUSED.values(), ids=REFUSED)
def test_other_operations_are_refused_by_name(use):
    with pytest.raises(TypeError, match=r"Expected site 'w', a draw for each sequence .*scope="):
        use(draw(columns()))


def test_dims_are_said_not_guessed(device):
    x = torch.ones(7, 7, 5, dtype=torch.float64, device=device)
    with pytest.raises(ValueError, match=r"Expected batch_dim=.* \(7, 7, 5\), since site 'w'"):
        linear(x, draw(columns(device=device)))
    with pytest.raises(ValueError, match=r"Expected batch_dim=.* input \(7, 7\), since site 'w'"):
        take_rows(draw(rows(device=device)), x[..., 0].long())
    with pytest.raises(ValueError, match=r"Expected no particle dims beside site 'w'"):
        linear(x, draw(columns(device=device)), particles=True, batch_dim=1)
    with pytest.raises(TypeError, match=r"in linear map, its blocks are rows"):
        draw(rows(device=device)).masked_weight(3)
    with pytest.raises(TypeError, match=r"in table, its blocks are not its rows"):
        draw(columns(gates=2, device=device)).rows(x[0, :, 0].long(), 0)


def test_no_particles():
    q = PerSequence(columns(), "w", SequenceCount())
    assert q.expand(()) is q
    with pytest.raises(NotImplementedError, match=r"site 'w' .* batch shape \(2, 1\): .*vectorize"):
        q.expand((2, 1))
    with pytest.raises(NotImplementedError, match=r"one draw of site 'w' .* sample shape \(2,\)"):
        q.rsample((2,))


def test_densities_cannot_be_read(device):
    base = columns(device=device)
    q = PerSequence(base, "w", SequenceCount())
    value = q.rsample()
    prior = Independent(Normal(torch.zeros_like(base.loc), 1.0, validate_args=True), 2)
    assert torch.equal(kl_divergence(q, prior), kl_divergence(base, prior))
    for density in (prior.log_prob(value), q.log_prob(value)):
        assert density.shape == ()
        with pytest.raises(
            NotImplementedError,
            match="Expected site 'w' to be scored by its analytic",
        ):
            density.item()


def test_it_looks_like_one_weight(device):
    value = draw(columns(device=device))
    assert isinstance(value, SequenceDraw)
    assert (value.shape, value.dim(), value.ndim, len(value)) == ((6, 5), 2, 2, 6)
    assert (value.dtype, value.device.type) == (torch.float64, device.type)
    assert value.numel() == 30


def test_masks_may_be_given(device):
    q = columns(gates=2, device=device)
    q.has_noise = False
    masks = torch.bernoulli(torch.full((7, 2, 5), 0.5, dtype=torch.float64, device=device))
    assert SequenceDraw.of_masks(q, "w", masks).masked_weight(7).mask is masks
    table = rows(device=device)
    table.has_noise = False
    masks = torch.bernoulli(torch.full((2, 9, 1), 0.5, device=device))
    ids = torch.randint(9, (2, 30), device=device)
    found = SequenceDraw.of_masks(table, "w", masks).rows(ids, 0)
    expected = 100 * torch.stack([masks[n, ids[n]] for n in range(2)]).expand(2, 30, 4)
    torch.testing.assert_close(found, expected)


def test_given_masks_must_fit():
    q = columns(gates=2)
    with pytest.raises(ValueError, match=r"without noise \(scale=0\), got SpikeAndSlab"):
        SequenceDraw.of_masks(q, "w", torch.ones(7, 2, 5))
    with pytest.raises(ValueError, match=r"masks of site 'w' of shape \(N, 2, 5\), got \(7, 5\)"):
        SequenceDraw.of_masks(q, "w", torch.ones(7, 5))


def test_probabilities_of_each_column(device):
    """A tensor drop_prob: nothing is drawn for look-ups of rows that a matrix does not have."""
    p = torch.tensor([[0.0, 1.0, 0.0, 1.0, 0.0]], dtype=torch.float64, device=device)
    mask = draw(columns(drop_prob=p, device=device)).masked_weight(7).mask
    assert torch.equal(mask, (1 - p).expand(7, 1, 5))


@pytest.mark.parametrize("scale", [0.1, 0.0], ids=["noise", "masks"])
@pytest.mark.parametrize("batch_dim", [0, 1])
def test_rows_of_columns_are_those_of_the_tied_map(batch_dim, scale, device):
    q = columns(device=device) if scale else BlockDropout(columns(device=device).loc, 0.3, (6, 1))
    tied = draw(q)
    ids = torch.randint(6, (4, 3), device=device)
    rows_read = tied.rows(ids, batch_dim)
    dense = tied.masked_weight(ids.shape[batch_dim]).dense()
    for place in itertools.product(range(4), range(3)):
        expected = dense[place[batch_dim], ids[place]]
        torch.testing.assert_close(rows_read[place], expected, rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad(rows_read.sum(), q.loc, retain_graph=True)
    (other,) = torch.autograd.grad(
        sum(dense[p[batch_dim], ids[p]].sum() for p in itertools.product(range(4), range(3))),
        q.loc,
    )
    torch.testing.assert_close(gradient, other, rtol=0, atol=1e-12)
