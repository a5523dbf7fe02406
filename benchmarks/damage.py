"""
Flip 1,000 bits of an archive one by one, and cut its files: which damage does a reader notice?

Guards against a change of format that leaves bytes without a checksum. Run from the repository::

    python -m benchmarks.damage [--flips N] [--seed N] [--output FILE]

It writes ``benchmarks/results/damage.json``. An archive of 5 million weights with the state of Adam
is written and read for the times.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pyro_vrnn.archives import DamagedArchiveError, read_archive, write_archive
from pyro_vrnn.files import write_json
from pyro_vrnn.infer import optimizer_state
from pyro_vrnn.runs import machine, versions

RESULT = Path(__file__).parent / "results" / "damage.json"
KIND: dict[str, Any] = {"format": "benchmark", "max_version": 1}


def archive(folder: Path) -> Path:
    """Write an archive whose files are of some hundred bytes each: every part gets its flips."""
    tensors = {"w": torch.arange(60.0).reshape(5, 12), "b": torch.tensor([1, 2])}
    facts = {"names": ["a", "b"], "rate": 0.1, "steps": list(range(20))}
    return write_archive(folder, tensors, facts, format="benchmark", version=1)


def noticed(folder: Path) -> bool:
    """Whether the reader refuses the archive."""
    try:
        read_archive(folder, **KIND)
    except DamagedArchiveError:
        return True
    return False


def flips(folder: Path, count: int, seed: int) -> dict[str, Any]:
    """Flip a bit at random among all bits of all files, look, and flip it back."""
    rng = random.Random(seed)
    files = sorted(folder.iterdir())
    sizes = [path.stat().st_size for path in files]
    made, missed = Counter[str](), Counter[str]()
    for _ in range(count):
        (path,) = rng.choices(files, weights=sizes)
        data = path.read_bytes()
        bit = rng.randrange(8 * len(data))
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        made[path.name] += 1
        missed[path.name] += not noticed(folder)
        path.write_bytes(data)
    return {
        "flips": dict(sorted(made.items())),
        "missed": sum(missed.values()),
        "bytes": dict(zip([path.name for path in files], sizes, strict=True)),
    }


def cuts(folder: Path) -> dict[str, int]:
    """Cut each file at each of its bytes, look, and put it back."""
    made = missed = 0
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        for length in range(len(data)):
            path.write_bytes(data[:length])
            made += 1
            missed += not noticed(folder)
        path.write_bytes(data)
    return {"cuts": made, "missed": missed}


def seconds(run: Callable[[], Any], times: int = 5) -> list[float]:
    """Return the sorted times of some runs."""
    found = []
    for _ in range(times):
        started = time.perf_counter()
        run()
        found.append(time.perf_counter() - started)
    return sorted(found)


def timing(folder: Path) -> dict[str, Any]:
    """Write and read 5 million float32 weights with Adam's two moments of each."""
    weights = torch.randn(5_000_000, requires_grad=True)
    adam = torch.optim.Adam([weights])
    weights.sum().backward()
    adam.step()
    tensors, facts = optimizer_state(adam)
    tensors["weights"] = weights.detach()
    place = folder / "large"
    writes = seconds(lambda: write_archive(place, tensors, facts, format="benchmark", version=1))
    reads = seconds(lambda: read_archive(place, **KIND))
    return {
        "weights": weights.numel(),
        "bytes": sum(path.stat().st_size for path in place.iterdir()),
        "write_seconds": {"median": statistics.median(writes), "runs": writes},
        "read_seconds": {"median": statistics.median(reads), "runs": reads},
    }


def main() -> None:
    """Run all and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        folder = archive(Path(scratch) / "small")
        result = {
            "seed": options.seed,
            **flips(folder, options.flips, options.seed),
            "cut_files": cuts(folder),
            "whole_afterwards": not noticed(folder),
            "timing": timing(Path(scratch)),
            "wall_time_seconds": time.perf_counter() - started,
            "versions": versions(),
            "machine": machine(),
        }
    write_json(options.output, result)
    print(f"{options.flips - result['missed']} of {options.flips} flips noticed: {options.output}")


if __name__ == "__main__":
    main()
