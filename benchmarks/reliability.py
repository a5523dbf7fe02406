"""
Kill training, signal it, spoil its numbers, repeat it, run it for long and at once with another.

Guards against a change of the training loop or of the checkpoints that loses a run, or makes a
resumed one another than the unbroken one. Run from the repository::

    OMP_NUM_THREADS=1 python benchmarks/reliability.py PART [--quick] [--seed N] [--output FILE]

PART is ``kills``, ``signals``, ``numbers``, ``memory``, ``repeats`` or ``parallel``, each some
minutes. It puts its part into ``benchmarks/results/reliability.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from benchmarks.reliability_crashes import kills, signals  # noqa: E402
from benchmarks.reliability_growth import memory, parallel, repeats  # noqa: E402
from benchmarks.reliability_numbers import numbers  # noqa: E402
from pyro_vrnn.files import write_json  # noqa: E402
from pyro_vrnn.runs import check_seed, machine, versions  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "reliability.json"
Record = dict[str, Any]
PARTS: dict[str, Callable[..., Record]] = {
    "kills": kills,
    "signals": signals,
    "numbers": numbers,
    "memory": memory,
    "repeats": repeats,
    "parallel": parallel,
}
QUICK: dict[str, dict[str, int]] = {
    "kills": {"runs": 1, "count": 3, "most": 30},
    "signals": {"rounds": 1},
    "numbers": {"times": 1},
    "memory": {"steps": 1000, "warm_up": 200},
    "repeats": {"times": 20, "warm_up": 5},
    "parallel": {"rounds": 1, "pairs": 1},
}


def measure(part: str, seed: int, *, quick: bool = False) -> Record:
    """Run one part, and return what goes into the file."""
    check_seed(seed)
    started, load = time.perf_counter(), os.getloadavg()[0]
    found = PARTS[part](seed, **(QUICK[part] if quick else {}))
    for row in found["rows"]:
        row["holds"] = row["value"] <= row["target"]
    return {
        "command": f"python benchmarks/reliability.py {part}" + (" --quick" if quick else ""),
        "seed": seed,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "wall_time_seconds": time.perf_counter() - started,
        "load_average": {"start": load, "end": os.getloadavg()[0]},
        "versions": versions(),
        "machine": {**machine(), "cores": os.cpu_count()},
        "config": {**found.pop("config"), "quick": quick},
        **found,
    }


def keep(path: Path, part: str, record: Record) -> None:
    """Put a part into a file of them, in the order of :data:`PARTS`."""
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    found[part] = record
    write_json(path, {name: found[name] for name in PARTS if name in found})


def table(record: Record) -> str:
    """Return the rows of a part as text."""
    return "\n".join(
        f"{'holds ' if row['holds'] else 'MISSED'}  {row['value']:g} {row['unit']} (target "
        f"{row['target']:g})  {row['what']}; {row['often']}"
        for row in record["rows"]
    )


def main() -> None:
    """Measure a part, print it and keep it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--quick", action="store_true", help="a small number of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    record = measure(options.part, options.seed, quick=options.quick)
    keep(options.output, options.part, record)
    print(table(record))
    print(f"{record['wall_time_seconds']:.0f} seconds: {options.output}")


if __name__ == "__main__":
    main()
