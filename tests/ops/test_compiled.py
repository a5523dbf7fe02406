"""Compiled code: sizes around its vectors and tiles, threads, functions."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from pyro_vrnn.ops import compiled, compiled_product, compiled_steps, compiler, paths
from pyro_vrnn.ops.cells import GATES
from pyro_vrnn.ops.recurrent import LayerWeights, recurrent
from pyro_vrnn.ops.weights import MaskedWeight
from tests.ops.test_recurrent_paths import Case, assert_equal, compare

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
modes = pytest.mark.parametrize("mode", list(GATES))


@pytest.fixture
def threads():
    """Set the number of threads, for this test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


SIZES = {  # T, N, D, H, S: vectors have 4, 8 or 16 numbers, tiles up to 12 rows and two vectors
    "one": (2, 1, 1, 1, 1),
    "under a vector": (3, 2, 3, 3, 2),
    "a vector": (3, 12, 16, 16, 3),
    "over two": (3, 13, 35, 33, 5),
    "over a chunk": (2, 99, 5, 17, 2),
    "over a depth": (9, 31, 40, 50, 2),
}


@modes
@pytest.mark.parametrize("kind", ["untied", "tied", "plain", "particles"])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_sizes(mode, kind, sizes, dtype):
    case = Case(mode, kind, dtype, sizes=sizes, noise=True, two_way=True)
    lengths = torch.arange(sizes[1]) % sizes[0] + 1
    compare("compiled", case, dtype, lengths)


@pytest.mark.parametrize("count", [5, 26], ids=["steps of one chunk", "chunks of one step"])
@pytest.mark.parametrize("mode", ["LSTM", "GRU"])
def test_large_weights(mode, count, threads):
    """Inputs are multiplied for many steps at once, where the weights are more than 8 MiB."""
    case = Case(mode, "untied", torch.float32, sizes=(35, count, 20, 600, 1), noise=True)
    assert sum(w.loc.nbytes + w.noise.nbytes for w in case.weights[0][:2]) > 2**23
    lengths = torch.arange(count) % 35 + 1
    for number in (1, 2):
        threads(number)
        compare("compiled", case, torch.float32, lengths)


@modes
@pytest.mark.parametrize("kind", ["untied", "particles"])
@pytest.mark.parametrize("hidden", [20, 190], ids=["split by sequences", "split by units"])
def test_threads_change_no_bit(mode, kind, hidden, threads):
    """Sums are in one order, whoever makes them; more threads than processors must do too."""
    case = Case(mode, kind, torch.float32, sizes=(6, 9, 5, hidden, 3), noise=True)
    runs = []
    for number in (1, 2, 3, 8):
        threads(number)
        values, grads = case.run("compiled", torch.arange(9) % 6 + 1)
        runs.append([t for t in (*values, *grads) if t is not None])
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


@modes
@pytest.mark.parametrize("kind", ["untied", "plain", "particles"])
@pytest.mark.parametrize("where", ["everywhere", "in some sequences"])
def test_starts_at_zero(mode, kind, where, dtype):
    """There is no product with a state of 0."""
    case = Case(mode, kind, dtype, sizes=(5, 60, 3, 18, 2), noise=True, two_way=True)
    with torch.no_grad():
        for state in case.state:
            state[..., : 50 if where == "in some sequences" else None, :] = 0
    compare("compiled", case, dtype, torch.arange(60) % 5 + 1)


@modes
@pytest.mark.parametrize("num_steps", [1, 2])
def test_weights_that_are_not_finite_show_in_sequences_that_start_at_zero(mode, num_steps):
    case = Case(mode, "plain", torch.float32, sizes=(num_steps, 3, 4, 5, 1))
    with torch.no_grad():
        for state in case.state:
            state.zero_()
        for layer in case.weights:
            layer.weight_hh.fill_(torch.nan)
    output, *_ = case.forward("compiled")
    assert output[-1].isnan().all()


def strided(x):
    """Return the same numbers with other gaps and another order of dims in memory."""
    dims = list(range(x.dim()))[::-1]
    return x.detach().permute(dims).repeat_interleave(2, 0)[::2].permute(dims)


@modes
@pytest.mark.parametrize("kind", ["untied", "tied", "plain", "particles", "particles of x"])
def test_any_strides(mode, kind, dtype):
    """Of what goes in, forward and backward: compiled code takes pointers."""
    case = Case(mode, kind, dtype, noise=True)
    taken = {}
    for path in ("reference", "compiled"):
        moved = {id(leaf): strided(leaf).requires_grad_() for leaf in case.leaves}

        def other(part, moved=moved):
            if isinstance(part, MaskedWeight):
                return MaskedWeight(other(part.loc), strided(part.mask), other(part.noise))
            return moved[id(part)]

        weights = [LayerWeights(*map(other, layer)) for layer in case.weights]
        state = tuple(other(s) for s in case.state)
        output, last = recurrent(mode, other(case.x), state, weights, path=path)
        found = (output, *last)
        grads = [strided(torch.sin(torch.arange(f.numel())).view(f.shape).to(f)) for f in found]
        leaves = list(moved.values())
        taken[path] = [*found, *torch.autograd.grad(found, leaves, grads, allow_unused=True)]
    assert not moved[id(case.x)].is_contiguous()
    assert_equal(taken["compiled"], taken["reference"], dtype)


def squash(mode, x):  # (n,) -> (n,): the cell's function, by a net that does nothing else
    dtype = x.dtype
    zero = torch.zeros(1, 1, dtype=dtype)
    weights = LayerWeights(zero + 1, zero, None, None)
    state = (torch.zeros(1, len(x), 1, dtype=dtype),)
    return recurrent(mode, x.view(1, -1, 1), state, [weights], path="compiled")[0].flatten()


def test_tanh_is_right_to_the_last_digits(dtype):
    x = torch.cat([torch.linspace(-30, 30, 100_001), torch.logspace(-30, 2, 1001)]).to(dtype)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(squash("RNN_TANH", x), torch.tanh(x), rtol=4 * eps, atol=0)


def gates(x):  # (n,) -> (4, n): sigmoids of x with g = o = 1, as seen in c and h of one LSTM step
    dtype, n = x.dtype, len(x)
    weight_ih = torch.tensor([[1.0], [1.0], [0.0], [0.0]], dtype=dtype)
    bias = torch.tensor([0.0, 0.0, 50.0, 0.0], dtype=dtype)
    weights = LayerWeights(weight_ih, torch.zeros(4, 1, dtype=dtype), bias, 0 * bias)
    state = tuple(torch.zeros(1, n, 1, dtype=dtype) for _ in range(2))
    _, (_, c) = recurrent("LSTM", x.view(1, -1, 1), state, [weights], path="compiled")
    return c.flatten()


def test_sigmoid_is_right_to_the_last_digits(dtype):
    x = torch.linspace(-80, 80, 100_001).to(dtype)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(gates(x), torch.sigmoid(x), rtol=8 * eps, atol=0)


@modes
def test_way_back_lays_out_the_recurrent_weight_alone(mode, monkeypatch):
    """The input's gradient is made when most memory is held: another copy of [M E] was the peak."""
    case = Case(mode, "untied", torch.float32, sizes=(5, 4, 9, 7, 1), noise=True)
    output, _ = recurrent(mode, case.x, case.state, case.weights, path="compiled")
    pack, laid_out = compiled._pack, []

    def recorded(weight, parts, columns):
        laid_out.append(tuple(weight.shape))
        return pack(weight, parts, columns)

    monkeypatch.setattr(compiled, "_pack", recorded)
    torch.autograd.grad(output.sum(), case.leaves[: -len(case.state)])
    assert laid_out == 2 * [(GATES[mode] * 7, 7)]


@modes
def test_huge_and_undefined_numbers(mode, dtype):
    case = Case(mode, "untied", dtype)
    with torch.no_grad():
        case.x[1:3, 0] *= 1e6
        case.x[2, 1] = -torch.inf
        case.x[3, 2, 0] = torch.nan
    values, _ = case.run("compiled")
    expected, _ = case.run("reference")
    for a, b in zip(values, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize(
    ("structure", "source", "name"),
    [
        (compiled_steps._Weight, "cells.h", "Weight"),
        (compiled_steps._Layer, "cells.h", "Layer"),
        (compiled_product._Product, "products.c", "Product"),
    ],
)
def test_structures_are_those_of_the_c_code(structure, source, name):
    (path,) = (p for p in compiler._SOURCES if p.name == source)
    (body,) = re.findall(rf"typedef struct {{([^}}]*)}} {name};", path.read_text())
    body = re.sub(r"/\*.*?\*/", "", body, flags=re.DOTALL)
    fields = []
    for declaration in body.split(";")[:-1]:
        of_values = compiled_steps._Weight if "Weight" in declaration else ctypes.c_long
        kind = ctypes.c_void_p if "*" in declaration else of_values
        names = re.sub(r"\b(const|long|real|Weight)\b|\*", "", declaration).split(",")
        fields += [(field.strip(), kind) for field in names]
    assert fields == structure._fields_


# What cannot be run as it is.


def test_particle_dims_of_size_one():
    case = Case("GRU", "particles", sizes=(5, 3, 4, 6, 3))
    (layer,) = case.weights
    weights = [LayerWeights(layer.weight_ih, *(w[:1] for w in layer[1:]))]
    state = tuple(s[:, :1] for s in case.state)
    x = case.x.expand(1, -1, -1, -1)
    found = [recurrent("GRU", x, state, weights, path=p)[0] for p in ("compiled", "reference")]
    assert_equal(found[:1], found[1:], torch.float64)


MISFITS = {
    "x": (dict(x=(5, 3, 7)), r"Expected weight_ih of shape \(24, 7\), got \(24, 4\)"),
    "rows": (dict(weight_ih=(23, 4)), r"Expected weight_ih of shape \(24, 4\), got \(23, 4\)"),
    "hh": (dict(weight_hh=(24, 5)), r"Expected weight_hh of shape \(24, 6\), got \(24, 5\)"),
    "bias": (dict(bias_hh=(6,)), r"Expected bias_hh of shape \(24,\), got \(6,\)"),
    "state": (dict(state=(1, 2, 6)), r"Expected state of shape \(3, 6\), got \(2, 6\)"),
    "particles": (
        dict(weight_ih=(3, 24, 4), weight_hh=(2, 24, 6)),
        r"Expected weight_hh of shape \(24, 6\), 3 particles in front or none, got \(2, 24, 6\)",
    ),
    "one bias": (dict(bias_hh=None), "Expected both bias_ih and bias_hh, or none of them, got one"),
}


@pytest.mark.parametrize("path", ["compiled", "unrolled", "fused"])
@pytest.mark.parametrize(("shapes", "message"), MISFITS.values(), ids=MISFITS)
def test_shapes_that_do_not_fit_are_refused(shapes, message, path):
    message = "Expected" if path == "fused" else message
    given = dict(x=(5, 3, 4), state=(1, 3, 6), weight_ih=(24, 4), weight_hh=(24, 6), bias_ih=(24,))
    given |= dict(bias_hh=(24,)) | shapes
    tensors = {k: None if v is None else torch.zeros(v) for k, v in given.items()}
    x, state = tensors.pop("x"), tensors.pop("state")
    with pytest.raises(ValueError, match=message):
        recurrent("LSTM", x, (state, state), [LayerWeights(**tensors)], path=path)


@modes
@pytest.mark.parametrize("kind", ["untied", "particles"])
def test_no_sequences(mode, kind):
    """Their weights' gradients are 0, not what was in memory."""
    case = Case(mode, kind, noise=True, sizes=(5, 0, 4, 6, 2))
    output = case.forward("compiled")[0]
    grads = torch.autograd.grad(output.sum(), case.leaves, allow_unused=True)
    assert all((g == 0).all() for g in grads if g is not None)


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="Expected at least one time step"):
        Case("GRU", "untied", sizes=(0, 3, 4, 6, 2)).forward("auto")


def test_tensors_without_memory_go_elsewhere():
    case = Case("GRU", "plain", torch.float32)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        x = mode.from_tensor(case.x.detach())
        assert recurrent("GRU", x, case.state, case.weights)[0].shape == (5, 3, 6)
    with pytest.raises(RuntimeError, match="it takes tensors, not FakeTensor"):
        recurrent("GRU", x, case.state, case.weights, path="compiled")


def test_negated_views(dtype):
    case = Case("GRU", "plain", dtype)
    with torch.no_grad():
        x = torch.complex(torch.zeros_like(case.x), -case.x).conj().imag
        assert x.is_neg()
        found, expected = (
            recurrent("GRU", v, case.state, case.weights, path="compiled")[0] for v in (x, case.x)
        )
    assert_equal([found], [expected], dtype)


def test_batches_of_gradients():
    case = Case("GRU", "untied")
    jacobians = [
        torch.autograd.functional.jacobian(
            lambda x, path=path: recurrent("GRU", x, case.state, case.weights, path=path)[0][-1],
            case.x,
            vectorize=vectorize,
        )
        for path, vectorize in (("reference", False), ("compiled", True), ("compiled", False))
    ]
    assert_equal(jacobians[1:], [jacobians[0]] * 2, torch.float64)


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
def test_forward_mode_goes_to_torch_s_operations():
    case = Case("GRU", "plain")
    with forward_ad.dual_level():
        x = forward_ad.make_dual(case.x.detach(), torch.ones_like(case.x))
        chosen = paths.choose_path("GRU", x, case.state, case.weights, "one weight")
    assert chosen[0] == "fused"


def test_checkpoints_and_gradients_of_nothing():
    case = Case("LSTM", "untied")

    def forward(x):
        return recurrent("LSTM", x, case.state, case.weights, path="compiled")[0]

    expected = torch.autograd.grad(forward(case.x).square().sum(), case.x, create_graph=True)[0]
    saved = checkpoint(forward, case.x, use_reentrant=False)
    found = torch.autograd.grad(saved.square().sum(), case.x, create_graph=True)[0]
    torch.testing.assert_close(found, expected)

    class Nothing(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.sum()

        @staticmethod
        def backward(ctx, grad):
            return None

    loss = Nothing.apply(forward(case.x)) + case.x.sum()
    (grad,) = torch.autograd.grad(loss, case.x, create_graph=True)
    assert (grad == 1).all()


def test_after_a_fork():
    """Threads do not survive it: the child goes on with one."""
    script = (
        "import os, torch; torch.set_num_threads(2)\n"
        "from tests.ops.test_recurrent_paths import Case\n"
        "case = Case('GRU', 'untied', torch.float32, sizes=(9, 40, 50, 60, 2))\n"
        "case.forward('compiled')\n"
        "child = os.fork()\n"
        "case.forward('compiled')\n"
        "if child == 0: os._exit(7)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
