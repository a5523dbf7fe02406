"""The Triton kernels: they compile for GPUs, one launch a step, and are tried before relied on."""

from __future__ import annotations

import inspect
import itertools
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_vrnn.ops import paths, recurrent, triton_check, triton_steps
from pyro_vrnn.ops.cell_kernels import Steps
from pyro_vrnn.ops.cells import GATES
from pyro_vrnn.ops.reference import run_reference
from pyro_vrnn.ops.triton_steps import TritonSteps
from pyro_vrnn.ops.unrolled_layer import UnrolledLayer
from tests.ops.test_recurrent_paths import Case, modes

triton = pytest.importorskip("triton")
kernels = triton_steps.kernels()
on_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU nothing is interpreted")


def pointers_of(kernel):
    return kernel.arg_names[: kernel.arg_names.index("row")]


def compile_all(dtype):
    """Compile the kernels as they can be launched; what a process without interpreter does."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    found = []
    for mode, gates in GATES.items():
        # Masks, noise, and whether there are gates to keep, a bias, and a gradient of outputs.
        variants = {(0, 0, 1), (1, 0, 1), (gates, 0, 1), (gates, 1, 1), (gates, 1, 0)}
        for (masks, noise, flag), kernel in itertools.product(
            sorted(variants), (kernels.forward_step, kernels.backward_step)
        ):
            constants = {
                "MODE": mode, "GATES": gates, "MASKS": masks,
                "NOISE": noise, "BLOCK": 128, "KEEPS": flag, "BIAS": flag, "OUTPUTS": flag,
            }  # fmt: skip
            signature = {
                name: "constexpr"
                if name.isupper()
                else f"*{dtype}"
                if name in pointers_of(kernel)
                else "i32"
                for name in kernel.arg_names
            }
            constants = {name: value for name, value in constants.items() if name in signature}
            source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
            compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32))
            found.append((compiled.asm["ttir"], len(compiled.asm["cubin"])))
    return found


@pytest.mark.parametrize(("dtype", "other"), [("fp32", "f64"), ("fp64", "f32")])
def test_kernels_compile_for_a_gpu(dtype, other, tmp_path):
    """No GPU is needed for that. One dtype, and no place in gates is reckoned in 32 bits."""
    program = (
        "import re\nfrom tests.ops.test_triton import compile_all\n"
        f"found = compile_all('{dtype}')\n"
        "texts = [text for text, _ in found]\n"
        f"print(len(found), sum('{other}' in text for text in texts), min(n for _, n in found))\n"
        "print(sum(bool(re.search(r'muli %gate.* : i32', text)) for text in texts))"
    )
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    count, of_other, smallest, in_32_bits = map(int, run.stdout.split())
    assert (count, of_other, in_32_bits) == (36, 0, 0)
    assert smallest > 0


class Launches:
    """In the place of a kernel: counts its launches, and does nothing."""

    count = 0

    def __getitem__(self, grid):
        return self.launch

    def launch(self, *args, **kwargs):
        self.count += 1


@on_cpu
@modes
@pytest.mark.parametrize("kind", ["untied", "particles", "plain"])
def test_a_step_is_one_product_and_one_launch(mode, kind, monkeypatch):
    monkeypatch.setattr(recurrent, "why_not", lambda *_: None)  # though a mode counts
    launches = [Launches(), Launches()]
    monkeypatch.setattr(kernels, "forward_step", launches[0])
    monkeypatch.setattr(kernels, "backward_step", launches[1])
    calls = []
    for steps in (4, 9):
        case = Case(mode, kind, noise=True, sizes=(steps, 3, 4, 6, 2))
        with Counted() as counted:
            case.run("triton")
        calls.append((counted.count, [kernel.count for kernel in launches]))
    (few, launched), (many, launched_again) = calls
    assert launched == [4, 4]
    assert [b - a for a, b in zip(launched, launched_again, strict=True)] == [9, 9]
    assert many - few == 2 * 5  # a product each way for each step more


class Counted(TorchDispatchMode):
    """Counts what torch computes: each is a launch on a GPU, but for views and empty memory."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not (func.is_view or func.overloadpacket.__name__.startswith("empty"))
        return func(*args, **(kwargs or {}))


def test_another_size_is_no_other_kernel():
    """Nothing is specialised; else a 1 or a multiple of 16 would compile one more."""
    for kernel in (kernels.forward_step, kernels.backward_step):
        names = list(inspect.signature(kernel.fn).parameters)
        flags = [name for name in names if name.isupper()]
        assert names == [name for name in names if name.islower()] + flags


@pytest.mark.parametrize("path", ["unrolled", "triton"])
def test_memory_alone_cuts_the_steps_on_a_gpu(path):
    """A window is launches of its own; on a CPU it is what a cache holds."""
    layer = UnrolledLayer("LSTM", Steps(50, 1024), 0, True, path)
    for device, least in (("meta", 1), ("cpu", 20)):
        rows = torch.empty(1, 1024, 4 * 32, device=device)
        assert len(layer.windows(rows)) == len(layer.pieces(rows)) or device == "cpu"
        assert len(layer.windows(rows)) >= least
        assert device == "cpu" or len(layer.windows(rows)) == 1


@pytest.fixture
def _forget(monkeypatch):
    monkeypatch.setattr(triton_check, "_known", {})


def raises(error):
    def raise_it(*args):
        raise error

    return raise_it


def run_halved(*args):
    output, last = run_reference(*args)
    return output / 2, last


MISSING, BROKEN = ModuleNotFoundError("triton"), OSError("no lib")
REASONS = {
    "no Triton": (triton_check, "kernels", raises(MISSING), "found no Triton"),
    "broken": (triton_check, "kernels", raises(BROKEN), "cannot be imported: OSError: no lib"),
    "no GPU": (triton_check, "interpreted", lambda: False, "they run on a GPU, not on cpu"),
    "wrong": (triton_check, "run_reference", run_halved, "other numbers than the reference"),
    "fails": (kernels, "forward_step", None, "Triton failed with TypeError: 'NoneType'"),
}


@on_cpu
@pytest.mark.usefixtures("_forget")
@pytest.mark.parametrize(("owner", "name", "value", "reason"), REASONS.values(), ids=REASONS)
def test_kernels_are_tried_before_they_are_relied_on(owner, name, value, reason, monkeypatch):
    monkeypatch.setattr(owner, name, value)
    assert reason in triton_check.why_not("cpu", torch.float32)
    with pytest.raises(RuntimeError, match=r"Expected Triton kernels for path='triton', got none"):
        Case("LSTM", "untied", torch.float32).forward("triton")


@on_cpu
@pytest.mark.usefixtures("_forget")
def test_a_full_memory_says_nothing_of_the_kernels(monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(triton_check, "_example", raises(torch.OutOfMemoryError("full")))
        with pytest.raises(torch.OutOfMemoryError, match="full"):
            triton_check.why_not("cpu", torch.float32)
    assert triton_check.why_not("cpu", torch.float32) is None


@on_cpu
@pytest.mark.usefixtures("_forget")
def test_they_are_not_tried_while_a_graph_is_captured(monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(torch.cuda, "is_available", lambda: True)
        patched.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        assert "graph is being captured" in triton_check.why_not("cpu", torch.float32)
    assert triton_check.why_not("cpu", torch.float32) is None


@pytest.mark.usefixtures("_forget")
def test_a_gpu_that_is_too_old_is_named(monkeypatch):
    monkeypatch.setattr(triton_check, "interpreted", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    assert "capability 6.1" in triton_check.why_not("cuda:1", torch.float32)


@on_cpu
@pytest.mark.usefixtures("_forget")
def test_they_are_switched_off_with_all_generated_code(monkeypatch):
    monkeypatch.setenv("PYRO_VRNN_COMPILE", "0")
    assert triton_check.why_not("cpu", torch.float32) == "PYRO_VRNN_COMPILE=0"


@on_cpu
def test_other_dtypes_are_named():
    assert "not torch.float16" in triton_check.why_not("cpu", torch.float16)


CHOICES = [  # mode, kind, reason, path
    ("LSTM", "masks", None, "triton"),
    ("GRU", "particles", None, "triton"),
    ("LSTM", "masks", "found no Triton", "unrolled"),
    ("GRU", "one weight", None, "fused"),
]


@pytest.mark.parametrize(("mode", "kind", "reason", "expected"), CHOICES)
def test_the_path_on_a_gpu(mode, kind, reason, expected, monkeypatch):
    asked = []
    monkeypatch.setattr(paths, "why_not", lambda path, *_: asked.append(path) or reason)
    x = SimpleNamespace(device=torch.device("cuda"))
    path, because = paths.choose_path(mode, x, (), [], kind)
    assert path == expected
    assert because == (f" (no Triton kernels: {reason})" if reason else "")
    assert asked == ([] if expected == "fused" else ["triton"])


@pytest.mark.gpu
@modes
@pytest.mark.parametrize("kind", ["untied", "particles"])
def test_auto_takes_them_on_a_gpu(mode, kind, monkeypatch):
    taken = []
    original = TritonSteps.forward
    monkeypatch.setattr(TritonSteps, "forward", lambda *args: taken.append(1) or original(*args))
    Case(mode, kind, torch.float32, device="cuda").forward("auto")
    assert taken
