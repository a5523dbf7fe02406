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

from pyro_vrnn.ops import paths, triton_check, triton_kernels
from pyro_vrnn.ops.cells import GATES
from pyro_vrnn.ops.reference import run_reference
from pyro_vrnn.ops.triton_steps import TritonSteps
from tests.ops.test_recurrent_paths import Case, modes

triton = pytest.importorskip("triton")


def compile_all(dtype):
    """Compile the kernels as they can be launched; what a process without interpreter does."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    found = []
    for mode, gates in GATES.items():
        # Masks, noise, and whether there are gates to keep, a bias, and a gradient of outputs.
        variants = {(0, 0, 1), (1, 0, 1), (gates, 0, 1), (gates, 1, 1), (gates, 1, 0)}
        for (masks, noise, flag), kernel in itertools.product(
            sorted(variants), (triton_kernels.forward_step, triton_kernels.backward_step)
        ):
            constants = {
                "MODE": getattr(triton_kernels, mode), "GATES": gates, "MASKS": masks,
                "NOISE": noise, "BLOCK": 128, "KEEPS": flag, "BIAS": flag, "OUTPUTS": flag,
            }  # fmt: skip
            signature = {
                name: "constexpr"
                if name.isupper()
                else "i32"
                if name in triton_kernels._INTEGERS
                else f"*{dtype}"
                for name in kernel.arg_names
            }
            constants = {name: value for name, value in constants.items() if name in signature}
            source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
            compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32))
            found.append((compiled.asm["ttir"], len(compiled.asm["cubin"])))
    return found


@pytest.mark.parametrize(("dtype", "other"), [("fp32", "f64"), ("fp64", "f32")])
def test_kernels_compile_for_a_gpu_in_one_dtype(dtype, other, tmp_path):
    """No GPU is needed to compile; nothing is rounded to the other dtype on the way."""
    program = (
        "from tests.ops.test_triton import compile_all\n"
        f"found = compile_all('{dtype}')\n"
        f"print(len(found), sum('{other}' in text for text, _ in found), min(n for _, n in found))"
    )
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    kernels, of_other, smallest = map(int, run.stdout.split())
    assert (kernels, of_other) == (36, 0)
    assert smallest > 0


class Launches:
    """In the place of a kernel: counts its launches, and does nothing."""

    count = 0

    def __getitem__(self, grid):
        self.count += 1
        return lambda *args, **kwargs: None


@modes
@pytest.mark.parametrize("kind", ["untied", "particles", "plain"])
def test_a_step_is_one_product_and_one_launch(mode, kind, monkeypatch):
    assert triton_check.why_not("cpu", torch.float64) is None
    kernels = [Launches(), Launches()]
    monkeypatch.setattr(triton_kernels, "forward_step", kernels[0])
    monkeypatch.setattr(triton_kernels, "backward_step", kernels[1])
    calls = []
    for steps in (4, 9):
        case = Case(mode, kind, noise=True, sizes=(steps, 3, 4, 6, 2))
        with Counted() as counted:
            case.run("triton")
        calls.append((counted.count, [kernel.count for kernel in kernels]))
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
    """Integers are not specialised; else a 1 or a multiple of 16 would compile one more."""
    for kernel in (triton_kernels.forward_step, triton_kernels.backward_step):
        names = inspect.signature(kernel.fn).parameters
        pointers = list(names)[: list(names).index("row")]
        flags = [name for name in names if name.isupper()]
        integers = [name for name in names if name in triton_kernels._INTEGERS]
        assert [*pointers, *integers, *flags] == list(names)


@pytest.fixture
def _forget():
    triton_check.why_not.cache_clear()
    yield
    triton_check.why_not.cache_clear()


def run_halved(*args):
    output, last = run_reference(*args)
    return output / 2, last


REASONS = {
    "no Triton": (triton_kernels, "INSTALLED", False, "found no Triton"),
    "no GPU": (triton_kernels, "interpreted", lambda: False, "they run on a GPU, not on cpu"),
    "wrong": (triton_check, "run_reference", run_halved, "other numbers than the reference"),
    "fails": (
        triton_kernels,
        "forward_step",
        None,
        "failed with TypeError: 'NoneType' object",
    ),
}


@pytest.mark.usefixtures("_forget")
@pytest.mark.parametrize(("owner", "name", "value", "reason"), REASONS.values(), ids=REASONS)
def test_kernels_are_tried_before_they_are_relied_on(owner, name, value, reason, monkeypatch):
    monkeypatch.setattr(owner, name, value)
    assert reason in triton_check.why_not("cpu", torch.float32)
    with pytest.raises(RuntimeError, match=r"Expected Triton kernels for path='triton', got none"):
        Case("LSTM", "untied", torch.float32).forward("triton")


@pytest.mark.usefixtures("_forget")
def test_they_are_switched_off_with_all_generated_code(monkeypatch):
    monkeypatch.setenv("PYRO_VRNN_COMPILE", "0")
    assert triton_check.why_not("cpu", torch.float32) == "PYRO_VRNN_COMPILE=0"


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
