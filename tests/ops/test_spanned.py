"""Noise drawn along the vectors that it multiplies: its law, and that it is one matrix."""

from __future__ import annotations

import pytest
import torch

from pyro_vrnn.ops.cells import GATES
from pyro_vrnn.ops.recurrent import LayerWeights, recurrent
from pyro_vrnn.ops.spanned import SpannedNoise
from pyro_vrnn.ops.weights import MaskedWeight, SequenceBias, masked_linear

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
Z = 4.26
NEAR = 1e-3


def noise_of(num_sequences, rank, rows, columns, scale=1.0, **options):
    return SpannedNoise(scale * torch.randn(num_sequences, rank, rows, **options), columns)


def vectors(dtype, columns=9):
    """Return 8 vectors: two equal ones, one in the span of others, one near to it, and 0."""
    h = torch.randn(8, columns, dtype=dtype)
    h[3] = h[1]
    h[4] = 2 * h[0] - h[2]
    h[5] = h[0] + NEAR * h[5]
    h[6] = 0
    return h


def assert_close(found, expected, dtype=torch.float64):
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE[dtype] * scale)


def whole_options(rank):
    return pytest.mark.parametrize("rank", rank, ids=["along vectors", "whole"])


@whole_options([8, 9])
def test_products_have_the_covariance_of_a_matrix_s(rank, dtype, device):
    num_sequences, rows, scale = 20_000, 2, 0.3
    h = vectors(dtype).to(device)
    noise = noise_of(num_sequences, rank, rows, 9, scale, dtype=dtype, device=device)
    found = torch.stack([noise.times(one.expand(num_sequences, -1)) for one in h])  # (T, N, F)
    joint = found.permute(0, 2, 1).reshape(8 * rows, num_sequences).double()
    gram = scale**2 * (h.double() @ h.double().T)
    expected = torch.kron(gram, torch.eye(rows, dtype=torch.float64, device=device))
    size = expected.diagonal()
    error = ((size[:, None] * size + expected**2) / num_sequences).sqrt()
    assert ((joint @ joint.T / num_sequences - expected).abs() <= Z * error + 1e-12).all()
    assert (joint.mean(1).abs() <= Z * (size / num_sequences).sqrt() + 1e-12).all()


def test_small_residuals_have_their_variance(dtype):
    """In float32 too: h + 1e-3 r has a direction of its own, as long as r is."""
    noise = noise_of(20_000, 8, 2, 9, dtype=dtype)
    h = vectors(dtype)
    found = noise.times_each(h.expand(20_000, -1, -1)).double()
    gap = (found[:, 5] - found[:, 0]).flatten() / (h[5] - h[0]).double().norm()
    assert abs(float(gap.square().mean()) - 1) < Z * (2 / len(gap)) ** 0.5


@whole_options([40, 50])
def test_the_products_are_those_of_one_matrix(rank, dtype, device):
    """Also where the next vector is made of the last product, and comes to rest."""
    noise = noise_of(3, rank, 50, 50, 0.02, dtype=dtype, device=device)
    h = torch.randn(3, 50, dtype=dtype, device=device)
    seen, found = [], []
    for _ in range(40):
        seen.append(h)
        found.append(noise.times(h))
        h = torch.tanh(h + found[-1]) * 0.9
    matrices = noise.drawn()
    assert matrices.shape == noise.shape == (3, 50, 50)
    for one, product in zip(seen, found, strict=True):
        assert_close(torch.einsum("nfd,nd->nf", matrices, one), product, dtype)


def test_what_is_in_the_span_has_its_product(dtype):
    noise = noise_of(4, 8, 6, 9, dtype=dtype)
    h = vectors(dtype)
    found = noise.times_each(h.expand(4, -1, -1))
    assert_close(found[:, 3], found[:, 1], dtype)
    assert_close(found[:, 4], 2 * found[:, 0] - found[:, 2], dtype)
    assert (found[:, 6] == 0).all()
    directions = noise._basis.square().sum(-1)
    assert_close(directions[0], torch.tensor([1, 1, 1, 0, 0, 1, 0, 1], dtype=dtype), dtype)


def test_directions_are_orthogonal(dtype):
    """Vectors that turn slowly, the states of a network: one projection alone is not enough."""
    noise = noise_of(2, 30, 1, 60, dtype=dtype)
    h = torch.randn(2, 60, dtype=dtype)
    for _ in range(30):
        noise.times(h)
        h = h + 1e-3 * torch.randn_like(h)
    gram = torch.bmm(noise._basis, noise._basis.mT)
    assert_close(gram, torch.eye(30, dtype=dtype).expand(2, -1, -1), dtype)


def test_a_whole_matrix_is_its_normals():
    normals = torch.randn(3, 5, 4)
    noise = SpannedNoise(normals, 5)
    h = torch.randn(3, 5)
    for _ in range(7):  # more often than it has columns
        assert_close(noise.times(h), torch.einsum("nrf,nr->nf", normals, h), torch.float32)
    assert noise.used == 7
    assert torch.equal(noise.whole(), normals.mT)
    ids = torch.tensor([[0, 3], [1, 1], [2, 0]])
    expected = torch.stack([noise.whole()[n, ids[n]] for n in range(3)])
    assert torch.equal(noise.rows(ids), expected)


@whole_options([8, 9])
def test_many_vectors_are_one_after_the_other(rank):
    normals = torch.randn(2, rank, 4, dtype=torch.float64)
    x = torch.randn(2, 6, 9, dtype=torch.float64)
    at_once, singly, added = (SpannedNoise(normals, 9) for _ in range(3))
    found = torch.cat([at_once.times_each(x[:, :2]), at_once.times_each(x[:, 2:])], 1)
    out = torch.ones(2, 4, dtype=torch.float64)
    for m in range(6):
        assert_close(singly.times(x[:, m]), found[:, m])
        added.add(x[:, m], out)
    assert_close(out - 1, found.sum(1))
    assert at_once.used == singly.used == added.used == 6


def test_other_sequences_make_no_difference():
    normals = torch.randn(5, 3, 4, dtype=torch.float64)
    x = torch.randn(5, 3, 9, dtype=torch.float64)
    found = SpannedNoise(normals, 9).times_each(x)
    assert_close(SpannedNoise(normals[3:], 9).times_each(x[3:]), found[3:])


def test_refusals():
    noise = noise_of(3, 1, 4, 9)
    noise.times(torch.randn(3, 9))
    with pytest.raises(ValueError, match=r"at most 1 products with noise of 1 directions, got"):
        noise.times(torch.randn(3, 9))
    for read in (noise.whole, lambda: noise.rows(torch.zeros(3, dtype=torch.int64))):
        with pytest.raises(ValueError, match=r"drawn whole, got 1 directions of 9"):
            read()
    with pytest.raises(NotImplementedError, match=r"no gradient through noise .*no_grad"):
        noise_of(3, 1, 4, 9).times(torch.randn(3, 9, requires_grad=True))
    assert noise.index_select(torch.arange(3)) is noise
    with pytest.raises(NotImplementedError, match=r"the longest first, .*got them in another"):
        noise.index_select(torch.tensor([1, 0, 2]))
    with pytest.raises(ValueError, match=r"Expected normals of shape \(N, R, F\), got \(3, 4\)"):
        SpannedNoise(torch.randn(3, 4), 9)
    weight = MaskedWeight(torch.randn(4, 9), torch.ones(2, 1, 9), noise)
    with pytest.raises(ValueError, match=r"noise of weight of shape \(2, 4, 9\), got \(3, 4, 9\)"):
        weight.check()


# In the layers


class Net:
    """Two layers with masks, noise and biases for each of 3 sequences, T = 5, D = 4, H = 6."""

    def __init__(self, mode, dtype, two_way, ranks=(5, 5)):
        self.mode, self.two_way = mode, two_way
        self.options = {"dtype": dtype}
        hidden, self.noises = 6, []
        self.weights = []
        ways = 2 if two_way else 1
        for k in range(2 * ways):
            inputs = 4 if k < ways else hidden * ways
            rows = GATES[mode] * hidden
            ih = self.masked(rows, inputs, min(ranks[0], inputs))
            hh = self.masked(rows, hidden, min(ranks[1], hidden))
            biases = [SequenceBias(torch.randn(3, rows, **self.options)) for _ in range(2)]
            self.weights.append(LayerWeights(ih, hh, *biases))
        self.x = torch.randn(5, 3, 4, **self.options)
        state = torch.randn(2 * ways, 3, hidden, **self.options)
        self.state = (state, state.clone()) if mode == "LSTM" else (state,)

    def masked(self, rows, columns, rank):
        noise = noise_of(3, rank, rows, columns, 0.4, **self.options)
        self.noises.append(noise)
        mask = torch.bernoulli(torch.full((3, 1, columns), 0.6, **self.options))
        return MaskedWeight(torch.randn(rows, columns, **self.options) / 3, mask, noise)

    def run(self, path, weights, lengths=None):
        with torch.no_grad():
            output, state = recurrent(
                self.mode, self.x, self.state, weights, bidirectional=self.two_way,
                lengths=lengths, path=path,
            )  # fmt: skip
        return [output, *state]

    def written(self):
        """Return the weights with their noise as it was drawn, whole."""

        def whole(w):
            return w._replace(noise=SpannedNoise(w.noise.drawn().mT, w.loc.shape[1]))

        return [
            layer._replace(weight_ih=whole(layer.weight_ih), weight_hh=whole(layer.weight_hh))
            for layer in self.weights
        ]


modes = pytest.mark.parametrize("mode", list(GATES))


@modes
@pytest.mark.parametrize("two_way", [False, True], ids=["one way", "two ways"])
@pytest.mark.parametrize("lengths", [None, [3, 3, 3]], ids=["full", "lengths"])
@pytest.mark.parametrize("ranks", [(5, 5), (12, 6)], ids=["along vectors", "whole"])
def test_a_layer_is_that_of_the_matrices_drawn(mode, two_way, lengths, ranks, dtype):
    net = Net(mode, dtype, two_way, ranks)
    lengths = None if lengths is None else torch.tensor(lengths)
    found = net.run("unrolled", net.weights, lengths)
    expected = net.run("reference", net.written(), lengths)
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, dtype)
    products = {noise.used for noise in net.noises[1::2]}
    assert products == {5 if lengths is None else 3}  # of the states


def test_a_second_run_is_of_the_same_network(dtype):
    options = {"dtype": dtype}
    noise = noise_of(3, 15, 20, 20, 0.3, **options)
    loc, mask = torch.randn(20, 20, **options) / 5, torch.ones(3, 1, 20, **options)
    weights = [LayerWeights(torch.randn(20, 4, **options), MaskedWeight(loc, mask, noise))]
    x, other = torch.randn(5, 3, 4, **options), torch.randn(5, 3, 4, **options)
    state = (torch.zeros(1, 3, 20, **options),)
    with torch.no_grad():
        first, again, third = (recurrent("RNN_TANH", xs, state, weights)[0] for xs in (x, x, other))
    assert_close(again, first, dtype)
    written = MaskedWeight(loc, mask, SpannedNoise(noise.drawn().mT, 20))
    weights = [weights[0]._replace(weight_hh=written)]
    for xs, found in ((x, first), (other, third)):
        expected, _ = recurrent("RNN_TANH", xs, state, weights, path="reference")
        assert_close(found, expected, dtype)


@modes
def test_plain_weights_with_biases_of_each_sequence(mode):
    net = Net(mode, torch.float64, False)
    weights = [
        w._replace(weight_ih=w.weight_ih.loc, weight_hh=w.weight_hh.loc) for w in net.weights
    ]
    found, expected = (net.run(path, weights) for path in ("auto", "reference"))
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b)


def test_biases_follow_the_order_of_lengths():
    net = Net("GRU", torch.float64, True)
    weights = [
        w._replace(
            weight_ih=w.weight_ih._replace(noise=None), weight_hh=w.weight_hh._replace(noise=None)
        )
        for w in net.weights
    ]
    lengths = torch.tensor([2, 5, 3])
    found, expected = (net.run(path, weights, lengths) for path in ("unrolled", "reference"))
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b)


def test_layers_refuse():
    net = Net("LSTM", torch.float64, False)
    with pytest.raises(NotImplementedError, match=r"longest first, where each has noise"):
        net.run("auto", net.weights, torch.tensor([2, 5, 3]))
    with pytest.raises(ValueError, match=r"drawn whole, got 5 directions of 6"):
        net.run("reference", Net("LSTM", torch.float64, False, (12, 5)).weights)
    net.state[0].requires_grad_()
    with pytest.raises(NotImplementedError, match=r"no gradient of a layer with noise .*no_grad"):
        recurrent("LSTM", net.x, net.state, net.weights)
    short = net.weights[0]._replace(bias_hh=SequenceBias(torch.zeros(2, 24)))
    with pytest.raises(ValueError, match=r"a bias for each sequence of shape \(3, F\), got \(2"):
        net.run("auto", [short, net.weights[1]])


@pytest.mark.parametrize("batch_dim", [0, 1])
def test_linear(batch_dim):
    weight = MaskedWeight(
        torch.randn(2, 9, dtype=torch.float64),
        torch.ones(3, 1, 9, dtype=torch.float64),
        noise_of(3, 4, 2, 9, dtype=torch.float64),
    )
    x = torch.randn(3, 4, 9, dtype=torch.float64)
    found = masked_linear(x.movedim(0, batch_dim), weight, batch_dim=batch_dim)
    dense = weight.loc + weight.noise.drawn()
    assert_close(found.movedim(batch_dim, 0), torch.einsum("nfd,nmd->nmf", dense, x))
