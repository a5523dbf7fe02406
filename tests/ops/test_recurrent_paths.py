"""The fast paths against the reference, values and gradients, and which path is taken."""

from __future__ import annotations

import importlib.util
import itertools
import logging
import shutil

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vrnn.ops import compiled, gemm, triton_check, unrolled_layer
from pyro_vrnn.ops import recurrent as module
from pyro_vrnn.ops.cells import GATES
from pyro_vrnn.ops.compiled_steps import CompiledSteps
from pyro_vrnn.ops.layer_steps import PlainSteps
from pyro_vrnn.ops.recurrent import LayerWeights, recurrent
from pyro_vrnn.ops.triton_steps import TritonSteps
from pyro_vrnn.ops.weights import MaskedWeight

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
KINDS = (
    "untied", "tied", "only hh", "ih untied, hh tied", "plain",
    "particles", "particles of hh", "particles of x",
)  # fmt: skip
modes = pytest.mark.parametrize("mode", list(GATES))


HAND_WRITTEN = ["unrolled", "compiled", *(["triton"] if importlib.util.find_spec("triton") else [])]


@pytest.fixture(params=HAND_WRITTEN)
def path(request):
    """Where a test names no device, its tensors are on the CPU."""
    named = "device" in request.fixturenames
    on_cpu = not named or request.getfixturevalue("device").type == "cpu"
    if request.param == "compiled" and shutil.which("cc") is None:
        pytest.skip("no C compiler on this machine")
    if request.param == "compiled" and not on_cpu:
        pytest.skip("compiled code runs on the CPU")
    if request.param == "triton" and on_cpu and not triton_check.interpreted():
        pytest.skip("with a GPU nothing is interpreted")
    if request.param == "triton" and on_cpu:  # first use tries other paths too
        assert triton_check.why_not("cpu", torch.float64) is None
    return request.param


class Case:
    """A stack of layers with leaves, its input and state."""

    def __init__(
        self, mode, kind, dtype=torch.float64, *, layers=1, two_way=False, bias=True, noise=False,
        sizes=(5, 3, 4, 6, 2), device="cpu",
    ):  # fmt: skip
        torch.manual_seed(1)
        self.mode, self.two_way, self.leaves = mode, two_way, []
        self.options = {"dtype": dtype, "device": device}
        steps, sequences, inputs, hidden, self.particles = sizes
        gates, directions = GATES[mode], 2 if two_way else 1
        self.sequences, self.noise, self.hidden = sequences, noise, hidden
        self.weights = []
        for layer, _ in itertools.product(range(layers), range(directions)):
            width = inputs if layer == 0 else hidden * directions
            rows = gates * hidden
            ih, hh = self.pair(kind, rows, width, gates)
            lead = (self.particles,) if kind == "particles" else ()
            biases = [self.leaf(*lead, rows) for _ in range(2)] if bias else []
            self.weights.append(LayerWeights(ih, hh, *biases))
        lead = (self.particles,) if kind == "particles of x" else ()
        self.x = self.leaf(*lead, steps, sequences, inputs)
        lead = (self.particles,) if kind == "particles" else ()
        shape = (layers * directions, *lead, sequences, hidden)
        self.state = tuple(self.leaf(*shape) for _ in range(2 if mode == "LSTM" else 1))

    def leaf(self, *shape):
        value = (torch.randn(shape, **self.options) / self.hidden**0.5).requires_grad_()
        self.leaves.append(value)
        return value

    def masked(self, rows, columns, groups):
        mask = torch.bernoulli(torch.full((self.sequences, groups, columns), 0.6, **self.options))
        noise = self.leaf(rows, columns) if self.noise else None
        return MaskedWeight(self.leaf(rows, columns), mask, noise)

    def pair(self, kind, rows, width, gates):
        hidden, lead = self.hidden, (self.particles,)
        if kind == "untied":
            return self.masked(rows, width, gates), self.masked(rows, hidden, gates)
        if kind == "tied":
            return self.masked(rows, width, 1), self.masked(rows, hidden, 1)
        if kind == "only hh":
            return self.leaf(rows, width), self.masked(rows, hidden, gates)
        if kind == "ih untied, hh tied":
            return self.masked(rows, width, gates), self.masked(rows, hidden, 1)
        if kind == "particles":
            return self.leaf(*lead, rows, width), self.leaf(*lead, rows, hidden)
        if kind == "particles of hh":
            return self.leaf(rows, width), self.leaf(*lead, rows, hidden)
        return self.leaf(rows, width), self.leaf(rows, hidden)

    def run(self, path, lengths=None):
        """Return output and state, and gradients of all leaves for one fixed direction."""
        found = self.forward(path, lengths)
        generator = torch.Generator().manual_seed(2)
        into = [torch.randn(f.shape, generator=generator).to(f) for f in found]
        loss = sum((f * w).sum() for f, w in zip(found, into, strict=True))
        return found, torch.autograd.grad(loss, self.leaves, allow_unused=True)

    def forward(self, path, lengths=None):
        output, state = recurrent(
            self.mode, self.x, self.state, self.weights, bidirectional=self.two_way,
            lengths=lengths, path=path,
        )  # fmt: skip
        return [output, *state]


def assert_equal(found, expected, dtype):
    tolerance = TOLERANCE[dtype]
    for a, b in zip(found, expected, strict=True):
        if a is not None or b is not None:
            scale = max(1.0, float(b.detach().abs().max()))
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * scale)


def compare(path, case, dtype, lengths=None):
    values, grads = case.run(path, lengths)
    expected, expected_grads = case.run("reference", lengths)
    assert_equal(values, expected, dtype)
    assert_equal(grads, expected_grads, dtype)
    with torch.no_grad():
        assert_equal(case.forward(path, lengths), expected, dtype)


@modes
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [None, [2, 5, 3]], ids=["full", "lengths"])
@pytest.mark.parametrize("stack", [(1, False), (2, True)], ids=["one layer", "2 layers, 2 ways"])
def test_values_and_gradients(mode, kind, lengths, stack, dtype, device, path):
    layers, two_way = stack
    lengths = None if lengths is None else torch.tensor(lengths)
    case = Case(mode, kind, dtype, layers=layers, two_way=two_way, noise=True, device=device)
    compare(path, case, dtype, lengths)


@modes
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("noise", [False, True], ids=["masks", "noise"])
def test_without_biases(mode, kind, noise, path):
    compare(path, Case(mode, kind, bias=False, noise=noise), torch.float64)


SIZES = {  # T, N, D, H, S
    "T=1": (1, 3, 4, 6, 2), "N=1": (5, 1, 4, 6, 2), "S=1": (5, 3, 4, 6, 1), "equal": (4, 4, 4, 4, 4)
}  # fmt: skip


@modes
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_sizes(mode, kind, sizes, path):
    compare(path, Case(mode, kind, sizes=sizes), torch.float64)


@modes
@pytest.mark.parametrize("kind", ["untied", "tied", "only hh", "plain"])
@pytest.mark.parametrize("noise", [False, True], ids=["masks", "noise"])
@pytest.mark.parametrize("lengths", [None, [2, 5, 3]], ids=["full", "lengths"])
def test_products_by_onednn(mode, kind, noise, lengths, monkeypatch):
    """At the sizes of these tests they would go to torch's products."""
    monkeypatch.setattr(gemm, "_WORTH", 0)
    lengths = None if lengths is None else torch.tensor(lengths)
    compare("unrolled", Case(mode, kind, torch.float32, noise=noise), torch.float32, lengths)


@modes
@pytest.mark.parametrize("worth", [0, 2**62], ids=["onednn", "torch"])
@pytest.mark.parametrize("kind", ["untied", "plain"])
def test_sequences_that_end_one_by_one(mode, kind, worth, monkeypatch):
    """Products of a step have one of four numbers of rows, at or above that of what still runs."""
    monkeypatch.setattr(gemm, "_WORTH", worth)
    case = Case(mode, kind, torch.float32, noise=True, sizes=(9, 9, 4, 6, 2), two_way=True)
    compare("unrolled", case, torch.float32, torch.tensor([3, 9, 1, 7, 5, 2, 8, 6, 4]))


@modes
@pytest.mark.parametrize("kind", ["untied", "particles"])
def test_windows_of_steps(mode, kind, monkeypatch, path):
    """Two steps at a time, forward and backward: each weight gradient is a sum of windows."""
    monkeypatch.setattr(unrolled_layer, "_PIECE", (3, 2**20))
    monkeypatch.setattr(unrolled_layer, "_WINDOW", (6, 2**20))
    compare(
        path, Case(mode, kind, two_way=True, noise=True), torch.float64, torch.tensor([2, 5, 3])
    )


@modes
def test_a_mask_is_a_weight_for_each_sequence(mode):
    """The reference itself, against the library's kernel on each sequence's own weights."""
    case = Case(mode, "untied", noise=True)
    found = case.forward("reference")
    for n in range(case.sequences):
        (layer,) = case.weights
        own = layer._replace(
            weight_ih=layer.weight_ih.dense()[n], weight_hh=layer.weight_hh.dense()[n]
        )
        state = tuple(s[:, n : n + 1].contiguous() for s in case.state)
        output, last = recurrent(mode, case.x[:, n : n + 1], state, [own], path="fused")
        one = [f[:, n : n + 1] for f in found]
        assert_equal(one, [output, *last], torch.float64)


@modes
def test_masks_drop_columns_not_rows(mode, path):
    """A dropped column of weight_hh for all gates hides that unit of h (not what a GRU carries)."""
    case = Case(mode, "untied")
    weight = case.weights[0].weight_hh
    weight.mask[:, :, 2] = 0
    case.forward(path)[0][0].sum().backward()
    assert (weight.loc.grad[:, 2] == 0).all()
    assert (weight.loc.grad[:, 1] != 0).any()


@modes
def test_a_masked_unit_is_not_heard(mode, path):
    """An all-zero mask column of weight_hh: what that unit of h holds at first changes nothing."""
    case = Case(mode, "untied", sizes=(1, 3, 4, 6, 2))
    case.weights[0].weight_hh.mask[:, :, 2] = 0
    first = case.forward(path)[0]
    with torch.no_grad():
        case.state[0][..., 2] += 1
    changed = (case.forward(path)[0] - first).abs().amax((0, 1)) > 0
    assert changed.tolist() == [mode == "GRU" and unit == 2 for unit in range(6)]


def test_a_gru_s_outputs_stay_in_their_range():
    case = Case("GRU", "untied", sizes=(200, 3, 4, 6, 2))
    state = (case.state[0].detach().clamp(-1, 1),)
    weights = [
        w._replace(weight_hh=w.weight_hh._replace(loc=50 * w.weight_hh.loc)) for w in case.weights
    ]
    output, _ = recurrent("GRU", case.x, state, weights)
    assert output.abs().max() <= 1


def test_padding_may_hold_nan():
    case = Case("LSTM", "untied")
    lengths = torch.tensor([2, 5, 3])
    expected, _ = case.run("unrolled", lengths)
    with torch.no_grad():
        case.x[3:, 2] = float("nan")
    found, grads = case.run("unrolled", lengths)
    assert_equal(found, expected, torch.float64)
    assert all(torch.isfinite(g).all() for g in grads)


SPIES = {
    "reference": (module, "run_reference"),
    "fused": (module, "run_fused"),
    "unrolled": (PlainSteps, "forward"),
    "compiled": (CompiledSteps, "forward"),
    "triton": (TritonSteps, "forward"),
}


@pytest.fixture
def taken(monkeypatch):
    """The paths that were taken, in turn."""
    names = []
    for name, (owner, function) in SPIES.items():
        original = getattr(owner, function)

        def spy(*args, name=name, original=original, **kwargs):
            names.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, function, spy)
    module._log_path.cache_clear()
    return names


FAST = [  # mode, kind, number of sequences, whether a gradient is asked for, path
    ("LSTM", "untied", 3, True, "compiled"),
    ("LSTM", "plain, lengths", 3, True, "compiled"),
    ("LSTM", "particles", 3, False, "compiled"),
    ("LSTM", "plain", 127, True, "fused"),
    ("LSTM", "plain", 128, True, "compiled"),
    ("LSTM", "plain, float64", 3, False, "compiled"),
    ("GRU", "plain", 3, True, "compiled"),
    ("RNN_RELU", "plain", 3, False, "compiled"),
]


@pytest.mark.parametrize(("mode", "kind", "count", "grad", "fast"), FAST)
def test_auto_takes_the_fast_path_and_logs_it_once(mode, kind, count, grad, fast, taken, caplog):
    if shutil.which("cc") is None and fast == "compiled":
        pytest.skip("no C compiler on this machine")
    kind, _, what = kind.partition(", ")
    dtype = torch.float64 if what == "float64" else torch.float32
    case = Case(mode, kind, dtype, sizes=(5, count, 4, 6, 3))
    lengths = torch.tensor([2, 5, 3]) if what == "lengths" else None
    with caplog.at_level(logging.INFO, logger=module.__name__), torch.set_grad_enabled(grad):
        case.forward("auto", lengths)
        case.forward("auto", lengths)
    assert taken == [fast] * 2
    assert [r.getMessage().endswith(f"the {fast} path") for r in caplog.records] == [True]


WITHOUT = [  # number of sequences, lengths, whether a gradient is asked for, path
    (128, None, True, "fused"),
    (3, [2, 5, 3], False, "fused"),
    (3, [2, 5, 3], True, "unrolled"),
]


@pytest.mark.parametrize(("count", "lengths", "grad", "path"), WITHOUT)
def test_auto_without_a_compiler(count, lengths, grad, path, taken, monkeypatch, caplog):
    """Torch's loop over packed steps is slow backward."""
    monkeypatch.setattr(compiled, "why_not", lambda *_: "there is no compiler")
    case = Case("LSTM", "plain", torch.float32, sizes=(5, count, 4, 6, 3))
    lengths = None if lengths is None else torch.tensor(lengths)
    with caplog.at_level(logging.INFO, logger=module.__name__), torch.set_grad_enabled(grad):
        case.forward("auto", lengths)
    assert taken == [path]
    assert caplog.messages[0].endswith("(no compiled code: there is no compiler)")


def test_auto_under_a_transform_takes_torch_s_operations(taken):
    case = Case("GRU", "plain")

    def loss(x):
        return recurrent("GRU", x, case.state, case.weights)[0].square().sum()

    grad = torch.func.grad(loss)(case.x)
    torch.testing.assert_close(grad, torch.autograd.grad(loss(case.x), case.x)[0])
    assert taken == ["fused", "compiled"]


@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated:DeprecationWarning")
def test_auto_in_a_trace_takes_torch_s_operations(taken):
    case = Case("RNN_TANH", "plain", torch.float32)
    case.weights = [LayerWeights(*(w.detach() for w in layer)) for layer in case.weights]
    case.state = tuple(s.detach() for s in case.state)
    with torch.no_grad():
        traced = torch.jit.trace(
            lambda x: recurrent("RNN_TANH", x, case.state, case.weights)[0],
            (case.x,),
            check_trace=False,
        )
        assert set(taken) == {"fused"}
        torch.testing.assert_close(2 * traced(case.x), 2 * case.forward("auto")[0])


def test_auto_does_without_compiled_code_and_says_why(taken, caplog, monkeypatch):
    monkeypatch.setattr(compiled, "why_not", lambda device, dtype: "found no C compiler")
    with caplog.at_level(logging.INFO, logger=module.__name__):
        Case("LSTM", "untied").forward("auto")
    assert taken == ["unrolled"]
    assert "unrolled path (no compiled code: found no C compiler)" in caplog.text
    with pytest.raises(RuntimeError, match=r"Expected compiled code .*: found no C compiler"):
        Case("LSTM", "untied").forward("compiled")


def test_a_path_that_is_asked_for_is_taken(path, taken):
    Case("GRU", "tied").forward(path)
    assert taken == [path]


@modes
def test_a_graph_that_is_kept_gives_the_same_gradients_again(mode, path):
    case = Case(mode, "untied", noise=True)
    loss = case.forward(path)[0].square().sum()
    first = torch.autograd.grad(loss, case.leaves, retain_graph=True, allow_unused=True)
    second = torch.autograd.grad(loss, case.leaves, allow_unused=True)
    assert all(a is b or torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_outputs_changed_in_place_are_noticed(path):
    output = (case := Case("LSTM", "untied")).forward(path)[0]
    loss = output.sum()
    with torch.no_grad():
        output.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, case.leaves)


@modes
def test_gradients_that_come_in_are_not_written_over(mode, path):
    case = Case(mode, "untied")
    found = case.forward(path)
    given = [torch.ones_like(f) for f in found]
    torch.autograd.grad(found, case.leaves, given, allow_unused=True)
    assert all((g == 1).all() for g in given)


@modes
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [None, [2, 5, 3]], ids=["full", "lengths"])
def test_second_derivatives_are_the_reference_s(mode, kind, lengths, path):
    lengths = None if lengths is None else torch.tensor(lengths)
    case = Case(mode, kind, noise=True, two_way=True)
    found = []
    for taken in (path, "reference"):
        outputs = case.forward(taken, lengths)
        loss = sum(f.square().sum() for f in outputs)
        grads = torch.autograd.grad(loss, case.leaves, create_graph=True, allow_unused=True)
        again = sum(g.square().sum() for g in grads if g is not None)
        found.append([*grads, *torch.autograd.grad(again, case.leaves, allow_unused=True)])
    assert_equal(found[0], found[1], torch.float64)


def test_autocast_runs_in_the_weights_dtype(path):
    case = Case("LSTM", "untied", torch.float32)
    expected, grads = case.run(path)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, again = case.run(path)
    assert_equal(found, expected, torch.float32)
    assert_equal(again, grads, torch.float32)


MISFITS = {
    "sequences": (dict(mask=(2, 4, 6)), r"Expected a mask for each of 3 sequences, got 2"),
    "columns": (dict(mask=(3, 4, 5)), r"Expected mask of weight of shape \(N, K, 6\)"),
    "rows": (dict(mask=(3, 5, 6)), r"Expected mask of weight whose K divides 24 rows"),
    "gates": (dict(mask=(3, 2, 6)), r"Expected masks for 1 or 4 parts .*got \{2\}"),
    "noise": (dict(noise=(24, 5)), r"Expected noise of weight of shape \(24, 6\)"),
}


@pytest.mark.parametrize(("shapes", "message"), MISFITS.values(), ids=MISFITS)
def test_parts_that_do_not_fit_are_refused(shapes, message):
    case = Case("LSTM", "untied")
    (layer,) = case.weights
    parts = {k: torch.ones(v, dtype=torch.float64) for k, v in shapes.items()}
    weights = [layer._replace(weight_hh=layer.weight_hh._replace(**parts))]
    with pytest.raises(ValueError, match=message):
        recurrent("LSTM", case.x, case.state, weights)


def test_masks_are_refused_on_the_fused_path():
    case = Case("LSTM", "untied")
    with pytest.raises(ValueError, match=r"two-dimensional weights on the fused path.*masks"):
        recurrent("LSTM", case.x, case.state, case.weights, path="fused")


def test_masks_and_particles_are_refused():
    case = Case("LSTM", "untied")
    x = case.x.expand(2, -1, -1, -1)
    with pytest.raises(ValueError, match=r"Expected either a mask .*got masks and 2 particles"):
        recurrent("LSTM", x, case.state, case.weights)


def test_two_devices_are_refused():
    case = Case("LSTM", "untied")
    state = tuple(s.to("meta") for s in case.state)
    message = r"Expected input, state and weights on one device, got cpu, meta"
    with pytest.raises(ValueError, match=message):
        recurrent("LSTM", case.x, state, case.weights, path="unrolled")


def test_a_mode_that_watches_sees_torch_s_operations(taken):
    """As make_fx does, whose graph would lack what compiled code computes."""
    case = Case("GRU", "untied")
    with torch.no_grad():
        traced = make_fx(lambda x: recurrent("GRU", x, case.state, case.weights)[0])(case.x)
        assert set(taken) == {"unrolled"}
        torch.testing.assert_close(traced(2 * case.x), recurrent_of(case, 2 * case.x))


def recurrent_of(case, x):
    return recurrent(case.mode, x, case.state, case.weights)[0]


def test_two_dtypes_are_refused():
    case = Case("LSTM", "untied")
    message = r"Expected input, state and weights of one dtype, got torch.float32, torch.float64"
    with pytest.raises(ValueError, match=message):
        recurrent("LSTM", case.x.float(), case.state, case.weights)


def test_a_mask_that_wants_a_gradient_is_refused():
    mask = torch.ones(2, 1, 6, requires_grad=True)
    with pytest.raises(ValueError, match=r"Expected mask of weight without gradient, got one"):
        MaskedWeight(torch.ones(4, 6), mask).check()
