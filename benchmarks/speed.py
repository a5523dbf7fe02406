"""
The speed of the package against plain torch, Pyro and its peers, as ratios measured in one run.

Guards against every regression that the table of targets names: a layer that leaves the library's
kernel, a loop that outgrows its products, a step that draws or scores what it need not, a
prediction that pays for each draw, memory that grows with the draws. Each ``speed_*.py`` beside
this file says which of them its rows guard against.

Reference and ours run in turns, A B A B; a ratio is the median of the ratios of the pairs, and
holds if it is at most its target. ``python benchmarks/speed.py`` prints the table and writes JSON
after every row; ``--resume`` keeps the rows that are there already.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pyro
import torch
from tqdm.auto import tqdm

from benchmarks import (
    speed_growth,
    speed_layer,
    speed_memory,
    speed_peers,
    speed_predict,
    speed_step,
)
from benchmarks.speed_timing import Case, Setting, matrix_rates
from pyro_vrnn.files import write_json
from pyro_vrnn.runs import check_device, machine, set_seed, versions

RESULTS = Path(__file__).parent / "results"
GROUPS: dict[str, Callable[[Setting], Iterator[Case]]] = {
    "layer": speed_layer.cases,
    "step": speed_step.cases,
    "predict": speed_predict.cases,
    "growth": speed_growth.cases,
    "peers": speed_peers.cases,
    "memory": speed_memory.cases,
}
Found = dict[str, Any]


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rows", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--runs", type=int, default=25, help="pairs of a row, at most")
    parser.add_argument("--seconds", type=float, default=3.0, help="after which a row ends early")
    parser.add_argument("--large", action="store_true", help="H = 1500 too (always on a GPU)")
    parser.add_argument("--quick", action="store_true", help="small rows, few pairs, no JSON")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="keep rows that are in --out")
    parser.add_argument("--out", type=Path, help="default: results/speed_<device>.json")
    args = parser.parse_args(argv)
    if args.out is None and not args.quick:
        args.out = RESULTS / f"speed_{args.device.split(':')[0]}.json"
    if args.device != "cpu":
        args.large, args.threads = True, args.threads[:1]
    return args


def configuration(args: argparse.Namespace) -> Found:
    """Return what a row depends on besides its name: rows of another one are not kept."""
    names = ("device", "runs", "seconds", "quick", "seed")
    return {name: getattr(args, name) for name in names}


def processor() -> str:
    """Return the processor's name, where Linux tells it."""
    lines = (
        Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else []
    )
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown"


def start(args: argparse.Namespace) -> Found:
    """Return an empty record of a run, or the one to go on with."""
    config = configuration(args)
    peers = {package: speed_peers.installed(package) for package in speed_peers.PACKAGES}
    about = {
        "versions": versions() | {name: v or "not installed" for name, v in peers.items()},
        "machine": machine() | {"processor": processor(), "cores": os.cpu_count() or 0},
    }
    about["machine"].pop("torch_threads")  # each row has its own
    fresh: Found = {
        "command": "python benchmarks/speed.py " + " ".join(sys.argv[1:]),
        "config": config,
        "date": datetime.now(UTC).date().isoformat(),
        "wall_time_seconds": 0.0,
        "load_average": {"start": os.getloadavg()[0], "end": 0.0},
        **about,
        "rates": {},
        "rows": [],
        "profiles": [],
    }
    if args.resume and args.out is not None and args.out.exists():
        old: Found = json.loads(args.out.read_text())
        other = [name for name in ("config", *about) if old.get(name) != fresh[name]]
        if other:
            raise SystemExit(
                f"Expected {args.out} to be of this run, got another {', '.join(other)}: leave out "
                "--resume to start anew."
            )
        return old
    return fresh


def measure_row(case: Case, setting: Setting) -> Found:
    """Measure one row."""
    pyro.clear_param_store()
    gc.collect()
    started = time.perf_counter()
    found = case.measure(setting)
    holds = None
    if case.target is not None:
        holds = found["ratio"] <= case.target
        if "floor_ratio" in found:
            holds = holds or found["floor_ratio"] <= found["floor_target"]
    return {
        "key": case.key,
        "group": case.group,
        "what": case.what,
        "shape": case.shape,
        "threads": setting.threads,
        "reference": case.reference,
        **found,
        "target": case.target,
        "holds": holds,
        "wall_seconds": time.perf_counter() - started,
    }


def jobs(args: argparse.Namespace, setting: Setting) -> Iterator[tuple[str, str, Any]]:
    """Yield (list of the record, key, what measures the entry) for one number of threads."""
    for group in args.rows:
        if group == "memory" and setting.threads != args.threads[0]:
            continue  # it does not depend on them
        for case in GROUPS[group](setting):
            yield "rows", case.key, lambda s, case=case: measure_row(case, s)
        if group == "step":
            for key, measure in speed_step.profiles(setting):
                yield (
                    "profiles",
                    key,
                    lambda s, key=key, m=measure: {"key": key, "threads": s.threads, **m(s)},
                )


def run(args: argparse.Namespace) -> Found:
    """Measure every row that is missing."""
    record = start(args)
    spent, started = record["wall_time_seconds"], time.perf_counter()
    device = check_device(args.device)
    if os.getloadavg()[0] > 0.5:
        print("Others are running here: the ratios will be noisy.", file=sys.stderr)
    torch.backends.cudnn.allow_tf32 = False  # float32 in both programs
    runs, seconds = (3, 0.5) if args.quick else (args.runs, args.seconds)
    for threads in args.threads:
        set_seed(args.seed)
        torch.set_num_threads(threads)
        rates = record["rates"].setdefault(str(threads), None) or matrix_rates(device)
        record["rates"][str(threads)] = rates
        setting = Setting(device, threads, runs, seconds, args.quick, args.large)
        setting = replace(setting, rate=rates["best"])
        done = {(e["key"], e["threads"]) for e in record["rows"] + record["profiles"]}
        todo = [job for job in jobs(args, setting) if (job[1], threads) not in done]
        with tqdm(todo, unit="row") as bar:
            for where, key, measure in bar:
                bar.set_description(f"{threads} threads, {key[:60]}")
                record[where].append(measure(setting))
                record["wall_time_seconds"] = spent + time.perf_counter() - started
                record["load_average"]["end"] = os.getloadavg()[0]
                if args.out is not None:
                    args.out.parent.mkdir(parents=True, exist_ok=True)
                    write_json(args.out, record)
    return record


MARKS = {True: "holds", False: "MISSED", None: ""}


def table(record: Found) -> str:
    """Return the rows as text, those that miss their target marked."""
    lines = []
    for row in record["rows"]:
        unit, scale = ("MiB", 2**-20) if "reference_bytes" in row else ("ms", 1e3)
        names = ("reference_bytes", "bytes") if unit == "MiB" else ("reference_seconds", "seconds")
        theirs, own = (row[name] * scale for name in names)
        target = "" if row["target"] is None else f"<= {row['target']:.3g}"
        floor = f" ({row['floor_ratio']:.2f} x floor)" if "floor_ratio" in row else ""
        sizes = " ".join(f"{name}={size}" for name, size in row["shape"].items())
        lines.append(
            f"{MARKS[row['holds']]:>6} {row['threads']} {row['what']:<72.72} {sizes:<26} "
            f"{theirs:10.2f} {own:10.2f} {unit:>3} {row['ratio']:8.3f} {target}{floor}"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Measure, print and write."""
    args = arguments(argv)
    record = run(args)
    print(table(record))
    for profile in record["profiles"]:
        parts = ", ".join(f"{name} {1e3 * s:.1f}" for name, s in profile["seconds"].items())
        print(f"{profile['threads']} {profile['key']}, ms: {parts}")
    missed = sum(row["holds"] is False for row in record["rows"])
    print(f"{missed} rows miss their target; {record['wall_time_seconds']:.0f} s.")
    if args.out is not None:
        print(args.out)


if __name__ == "__main__":
    main()
