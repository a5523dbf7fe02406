"""What the recurrent baselines compute: torch.nn where nothing drops, the reference under masks."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from pyro_vrnn import baselines
from pyro_vrnn.ops.recurrent import LayerWeights, recurrent
from pyro_vrnn.ops.weights import MaskedWeight
from tests.baselines.cases import (
    THEIRS,
    D,
    H,
    N,
    T,
    assert_close,
    cells,
    dropping,
    flat,
    forms,
    gate_masks,
    make,
    methods,
    ones_masks,
    scopes,
    sequences,
    tied_methods,
    twin,
)  # fmt: skip

LENGTHS = torch.tensor([3, 6, 1, 4])
DROP_PROB = {"weight_ih": 0.4, "weight_hh": 0.2, "weight_hh_l1_reverse": 0.6}


@cells
@forms
@dropping
def test_evaluation_is_torch_with_mean_weights(cell, parametrization, method, dtype, device):
    net = make(
        cell, method=method, drop_prob=DROP_PROB, parametrization=parametrization,
        dtype=dtype, device=device,
    ).eval()  # fmt: skip
    weights = {name: w.detach().clone() for name, w in net.named_parameters()}
    if parametrization == "non-inverted" and method != "gaussian":
        keep = {
            name: 0.6 if "_ih" in name else 0.4 if name.endswith("hh_l1_reverse") else 0.8
            for name in weights
            if name.startswith("weight") and not (method == "non-recurrent" and "_hh" in name)
        }
        weights = {name: w * keep.get(name, 1.0) for name, w in weights.items()}
    x = sequences(dtype, device)
    assert_close(flat(net(x)), flat(twin(net, cell, weights)(x)), dtype)


@cells
@methods
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_without_dropping_training_is_torch(cell, method, bias):
    net = make(cell, method=method, drop_prob=0.0 if method != "none" else 0.5, bias=bias)
    x = sequences()
    assert_close(flat(net(x)), flat(twin(net, cell)(x)))


@cells
@methods
def test_loads_torch_and_torch_loads_it(cell, method):
    net, other = make(cell, method=method), make(cell)
    plain = twin(net, cell)
    assert list(net.state_dict()) == list(plain.state_dict())
    other.load_state_dict(plain.state_dict())
    assert_close(list(other.parameters()), list(net.parameters()))


@cells
def test_same_seed_same_initial_weights_as_torch(cell):
    torch.manual_seed(3)
    net = make(cell)
    torch.manual_seed(3)
    fresh = THEIRS[cell](D, H, 2, bidirectional=True, dtype=torch.float64)
    assert_close(list(net.parameters()), list(fresh.parameters()))
    assert isinstance(net, torch.nn.RNNBase)


def reference(net, masks, x, state, lengths=None):
    """Run the definition under masks, with 1 / (1 - p) by hand."""
    weights = []
    for layer in range(net.num_layers):
        for suffix in [f"_l{layer}", f"_l{layer}_reverse"]:
            pair = []
            for kind in ("weight_ih", "weight_hh"):
                name = kind + suffix
                scale = 1.0
                if net.parametrization == "inverted" and net.method == "variational":
                    scale = 1 / (1 - net.drop_probs[name])
                mask = masks[name].expand(x.shape[1], -1, -1) * scale
                pair.append(MaskedWeight(getattr(net, name), mask))
            biases = [getattr(net, kind + suffix) for kind in ("bias_ih", "bias_hh")]
            weights.append(LayerWeights(*pair, *biases))
    return recurrent(
        net.mode, x, state, weights, bidirectional=True, lengths=lengths, path="reference"
    )


@cells
@scopes
@gate_masks
@forms
@tied_methods
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
def test_masks_are_the_reference(cell, scope, gates, parametrization, method, lengths):
    """Values and gradients."""
    net = make(
        cell, method=method, drop_prob=DROP_PROB, scope=scope, gates=gates,
        parametrization=parametrization,
    )  # fmt: skip
    x, masks = sequences().requires_grad_(), net.draw_masks(N)
    state = [torch.randn(4, N, H).double().requires_grad_() for _ in range(1 + (cell == "lstm"))]
    hx = tuple(state) if cell == "lstm" else state[0]
    actual = flat(net(x, hx, lengths, masks=masks))
    output, last = reference(net, masks, x, tuple(state), lengths)
    assert_close(actual, [output, *last])
    leaves = [x, *state, *net.parameters()]
    loss = sum((k + 1) * a.sin().sum() for k, a in enumerate(actual))
    expected = sum((k + 1) * e.sin().sum() for k, e in enumerate([output, *last]))
    assert_close(torch.autograd.grad(loss, leaves), torch.autograd.grad(expected, leaves))


@tied_methods
@scopes
def test_training_uses_drawn_masks(method, scope):
    net, x = make(method=method, scope=scope, drop_prob=0.5), sequences()
    torch.manual_seed(5)
    drawn = flat(net(x))
    torch.manual_seed(5)
    assert_close(drawn, flat(net(x, masks=net.draw_masks(N))))
    assert not torch.equal(drawn[0], net(x)[0])  # no mask is kept for the next call


@tied_methods
def test_given_masks_count_in_evaluation_too(method):
    net, x = make(method=method, drop_prob=0.5), sequences()
    masks = net.draw_masks(N)
    assert_close(flat(net.eval()(x, masks=masks)), flat(net.train()(x, masks=masks)))


@cells
@methods
def test_forms_of_input(cell, method):
    """Time first, batch first, packed and lengths are one network; padding does not matter."""
    net = make(cell, method=method, drop_prob=0.5)
    x = sequences()
    beyond = (torch.arange(T).unsqueeze(-1) >= LENGTHS).unsqueeze(-1)

    def run(value, *args):
        torch.manual_seed(7)
        return net(value, *args)

    output, state = run(x, None, LENGTHS)
    assert not output[beyond.expand_as(output)].any()
    padded = run(torch.where(beyond, torch.nan, x), None, LENGTHS)
    assert_close(flat(padded), flat((output, state)))
    packed, of_packed = run(pack_padded_sequence(x, LENGTHS, enforce_sorted=False))
    assert_close(flat((pad_packed_sequence(packed)[0], of_packed)), flat((output, state)))
    net.batch_first = True
    first, of_first = run(x.transpose(0, 1), None, LENGTHS)
    assert_close(flat((first.transpose(0, 1), of_first)), flat((output, state)))


@cells
@methods
def test_padding_has_no_gradient(cell, method):
    net = make(cell, method=method, drop_prob=0.5)
    beyond = (torch.arange(T).unsqueeze(-1) >= LENGTHS).unsqueeze(-1)
    x = torch.where(beyond, torch.nan, sequences()).requires_grad_()
    output, _ = net(x, lengths=LENGTHS)
    output.sum().backward()
    assert not x.grad[beyond.expand_as(x)].any()
    assert all(bool(p.grad.isfinite().all()) for p in net.parameters())


@cells
@methods
def test_lengths_are_sequences_by_themselves(cell, method):
    net = make(cell, method=method, drop_prob=0.5).eval()
    x = sequences()
    output, state = net(x, lengths=LENGTHS)
    alone, of_alone = net(x[:3, :1])
    assert_close(output[:3, :1], alone)
    whole = state if isinstance(state, tuple) else (state,)
    short = of_alone if isinstance(of_alone, tuple) else (of_alone,)
    assert_close([s[:, :1] for s in whole], list(short))


@cells
@methods
def test_one_sequence_without_its_dim(cell, method):
    net = make(cell, method=method, drop_prob=0.5)
    x, h = sequences()[:, 0], torch.randn(4, H).double()
    hx = (h, h) if cell == "lstm" else h
    batched = tuple(s.unsqueeze(1) for s in hx) if cell == "lstm" else hx.unsqueeze(1)
    torch.manual_seed(2)
    output, state = net(x, hx)
    torch.manual_seed(2)
    expected = flat(net(x.unsqueeze(1), batched))
    assert_close(flat((output, state)), [e.squeeze(1) for e in expected])


@cells
@dropping
def test_call_leaves_the_stored_weights(cell, method):
    net = make(cell, method=method, drop_prob=0.5)
    before = copy.deepcopy(net.state_dict())
    output, _ = net(sequences())
    output.sum().backward()
    net.eval()(sequences())
    assert_close(list(net.state_dict().values()), list(before.values()), torch.float64)
    assert all(p.grad is not None and bool(p.grad.any()) for p in net.parameters())


@dropping
def test_copies_are_networks_of_their_own(method):
    net, x = make(method=method, drop_prob=0.5), sequences()
    other = copy.deepcopy(net)
    again = pickle.loads(pickle.dumps(net))
    torch.manual_seed(1)
    expected = flat(net(x))
    torch.manual_seed(1)
    assert_close(flat(other(x)), expected)
    torch.manual_seed(1)
    assert_close(flat(again(x)), expected)
    assert other.weight_hh_l0 is not net.weight_hh_l0


@pytest.mark.parametrize("scope", ["sequence", "batch"])
def test_all_ones_masks_drop_nothing(scope):
    net, x = make(scope=scope, drop_prob=0.5), sequences()
    assert_close(flat(net(x, masks=ones_masks(net))), flat(twin(net)(x)))


def test_repr_names_the_method():
    assert "method='naive', drop_probs={'weight_ih_l0': 0.0, " in repr(
        baselines.GRU(2, 3, method="naive")
    )
    assert repr(baselines.GRU(9, 3, method="none")) == "GRU(9, 3, method='none')"
