"""
Rows of peak memory: one layer, forward and backward, in a process of its own.

Guards against a hand-written backward pass that keeps more than the library's. What counts is the
growth of the resident set (of the allocator, on a GPU) over what stood before the call. What was
freed before goes back to the system first, blocks of 64 KiB and more at once: a program that finds
some of it, and takes it again without growth, would look smaller than it is.
``speed.py`` runs this file.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.speed_timing import Case, Program, Setting, Shape

TARGET, DRAWS = 1.2, 500
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
SHAPES: tuple[Shape, ...] = ((35, 20, 650), (200, 128, 128))


def _resident(name: str) -> int:
    return 1024 * int(re.search(rf"{name}:\s+(\d+)", STATUS.read_text()).group(1))


def _hand_back() -> None:
    """Give the free memory of the heap back to the system, where the C library can."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def growth(program: Program, device: torch.device) -> int:
    """Return by how many bytes memory grew at most during one call."""
    if device.type == "cuda":
        program()  # workspaces of the libraries
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        program()
        return torch.cuda.max_memory_allocated(device) - before
    if STATUS.exists():
        _hand_back()
        # A child's ru_maxrss starts at its parent's; Linux can start a process's peak anew.
        RESET.write_text("5")
        before = _resident("VmRSS")
        program()
        return _resident("VmHWM") - before
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    program()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before


@functools.cache
def peak_bytes(device: str, threads: int, kind: str, *options: Any) -> dict[str, int]:
    """Return what a process of its own finds: name -> bytes."""
    request = {"device": device, "threads": threads, "kind": kind, "options": options}
    run = subprocess.run(
        [sys.executable, __file__, json.dumps(request)],
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**16)},
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        raise RuntimeError(f"Expected a measurement of {request}, got:\n{run.stderr}")
    found: dict[str, int] = json.loads(run.stdout.splitlines()[-1])
    return found


VARIANTS = ("batch", "untied", "noise")


def _layers(device: torch.device, mode: str, shape: Shape) -> dict[str, int]:
    from benchmarks.speed_layer import Layer

    found = {}
    for variant in ("reference", *VARIANTS):
        layer = Layer(mode, shape, device)
        program: Program = layer.reference
        if variant != "reference":
            program = partial(layer.run, layer.masked(variant))
        program()  # so that what the libraries set up does not count
        layer.forget()
        found[variant] = growth(program, device)
    return found


def _predictions(device: torch.device, strategy: str) -> dict[str, int]:
    from benchmarks.speed_predict import Trained
    from pyro_vrnn.infer import predict

    trained = Trained(1 if strategy == "batched" else 200, 32, 0.01, device)
    found = {}
    for draws in (2, DRAWS, 4 * DRAWS):
        options = dict(num_samples=draws, strategy=strategy, max_bytes=2**24)
        program = partial(predict, trained.model, trained.guide, trained.x, seed=0, **options)
        found[str(draws)] = growth(partial(program, progress=False), device)
    return found


def _measure(setting: Setting, mode: str, variant: str, shape: Shape) -> dict[str, Any]:
    found = peak_bytes(str(setting.device), setting.threads, "layers", mode, shape)
    reference, ours = found["reference"], found[variant]
    return {"reference_bytes": reference, "bytes": ours, "ratio": ours / reference, "pairs": 1}


def cases(setting: Setting) -> Iterator[Case]:
    """Yield the rows; memory does not depend on threads, so one number of them is enough."""
    from benchmarks.speed_layer import VARIANTS as TEXTS

    for shape in SHAPES[:1] if setting.quick else SHAPES:
        sizes = dict(zip("TNH", shape, strict=True))
        for mode in ("LSTM", "GRU"):
            for variant in VARIANTS:
                measure = partial(_measure, mode=mode, variant=variant, shape=shape)
                what = f"peak memory: {mode}, {TEXTS[variant]}"
                yield Case("memory", what, sizes, TARGET, measure, f"nn.{mode}")


def main(device: str, threads: int, kind: str, options: list[Any]) -> None:
    """Print the measurements of one process."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    measure = {"layers": _layers, "predictions": _predictions}[kind]
    options = [tuple(option) if isinstance(option, list) else option for option in options]
    print(json.dumps(measure(torch.device(device), *options)))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
