"""Whether memory grows over steps and over fits, and whether fits at once disturb each other."""

from __future__ import annotations

import os
import tempfile
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch

import pyro_vrnn as vrnn
from benchmarks.reliability_child import (
    RECIPES,
    Job,
    batches,
    checkpoint_digest,
    digest,
    pair,
    state_digest,
    train,
)
from benchmarks.reliability_crashes import Child, unbroken
from pyro_vrnn.infer import FitResult

Row = dict[str, Any]
MIB = 2**20


def resident() -> float:
    """Return this process's resident memory in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def slope(x: list[int], y: list[float]) -> tuple[float, float]:
    """Return slope and residual standard deviation of the line of least squares."""
    line = np.polynomial.Polynomial.fit(x, y, 1)
    return float(line.convert().coef[1]), float(np.std(np.asarray(y) - line(np.asarray(x))))


class Watch:
    """A callback that notes the resident memory now and then."""

    every = "step"

    def __init__(self, period: int) -> None:
        self.period, self.steps, self.mib = period, list[int](), list[float]()

    def __call__(self, result: FitResult) -> None:
        if result.steps.length % self.period == 0:
            self.steps.append(result.steps.length)
            self.mib.append(round(resident(), 3))


def _tiny() -> Job:
    pyro.set_rng_seed(0)
    model = vrnn.models.SequenceRegression(vrnn.nn.RNN(1, 2, bias=False), 1, num_data=4)
    return Job(model, vrnn.infer.AutoSpikeAndSlab(model), [], {})


def _history_mib(result: FitResult) -> float:
    history, _ = result.state()
    return sum(values.numel() * values.element_size() for values in history.values()) / MIB


def memory(seed: int, *, steps: int = 100_000, warm_up: int = 10_000) -> Row:
    """Make many steps of one fit, and see how resident memory grows."""
    job, watch = _tiny(), Watch(max(1, steps // 200))
    epoch = steps // 100
    batch = (torch.randn(2, 2, 1), torch.randn(2, 1))
    adam = partial(torch.optim.Adam, lr=1e-3)
    result = vrnn.infer.fit(
        job.model, job.guide, [batch] * epoch, num_epochs=steps // epoch, optimizer=adam,
        seed=seed, callbacks=[watch], progress=False,
    )  # fmt: skip
    kept = [k for k, step in enumerate(watch.steps) if step >= warm_up]
    found, spread = slope([watch.steps[k] for k in kept], [watch.mib[k] for k in kept])
    return {
        "config": {"steps": steps, "warm-up": warm_up, "steps an epoch": epoch},
        "rows": [
            {
                "what": "resident memory over steps, history included",
                "often": f"{steps:,} steps, the first {warm_up:,} left out",
                "value": round(1e4 * found, 3),
                "target": 1,
                "unit": "MiB / 10,000 steps",
            }
        ],
        "history_mib_per_10000_steps": _history_mib(result) / steps * 1e4,
        "spread_mib": spread,
        "steps": watch.steps,
        "mib": watch.mib,
    }


def _short_fit(seed: int) -> str:
    model, guide = pair()
    job = Job(model, guide, batches(), {"num_epochs": 1, "seed": seed})
    return state_digest(job, train(job, None))


def repeats(seed: int, *, times: int = 500, warm_up: int = 100) -> Row:
    """Fit many times in one process."""
    mib, digests, stores = [], [], []
    for _ in range(times):
        digests.append(_short_fit(seed))
        mib.append(round(resident(), 3))
        stores.append(len(list(pyro.get_param_store().keys())))
    fits = list(range(times))
    found, spread = slope(fits[warm_up:], mib[warm_up:])
    left = f"{times} fits, the first {warm_up} left out"
    return {
        "config": {"times": times, "warm-up": warm_up},
        "rows": [
            {
                "what": "resident memory over fits in one process",
                "often": left,
                "value": round(100 * found, 3),
                "target": 0.25,
                "unit": "MiB / 100 fits",
            },
            {
                "what": "fits that differ in a bit from the first in the process",
                "often": f"{times} fits",
                "value": sum(one != digests[0] for one in digests),
                "target": 0,
                "unit": "",
            },
            {
                "what": "Pyro's parameter store: growth",
                "often": f"{times} fits",
                "value": max(stores) - stores[0],
                "target": 0,
                "unit": "entries",
            },
        ],
        "spread_mib": spread,
        "store_entries": sorted(set(stores)),
        "mib": mib,
    }


PAIRS = [
    ("list", "dataset"),
    ("schedule", "validation"),
    ("accumulate", "list"),
    ("dataset", "dataset"),
]


def _processes(names: tuple[str, str]) -> int:
    """Train in two processes at once; count those that differ from one alone."""
    with tempfile.TemporaryDirectory() as scratch:
        children = [Child(name, Path(scratch) / str(k)) for k, name in enumerate(names)]
        for child in children:
            child.end()
        ends = [child.lines[-1][1:] for child in children]
    return sum(end != unbroken(name) for end, name in zip(ends, names, strict=True))


def _fit_digest(job: Job, folder: Path) -> str:
    """Fit, and return the digest of what belongs to this fit: generators belong to the process."""
    result = train(job, folder)
    parameters = {**job.model.state_dict(), **job.guide.state_dict(prefix="guide.")}
    return digest(parameters) + digest(result.state()[0]) + checkpoint_digest(folder)


def _threads(names: tuple[str, str]) -> int:
    """Train in two threads at once; count those that differ from one alone."""
    ends: dict[tuple[bool, int], str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for together in (False, True):
            jobs = [RECIPES[name]() for name in names]
            barrier = threading.Barrier(len(jobs) if together else 1)

            def work(k: int, job: Job, together: bool, barrier: threading.Barrier) -> None:
                barrier.wait()
                folder = Path(scratch) / f"{k}-{together}"
                ends[together, k] = _fit_digest(job, folder)

            threads = [
                threading.Thread(target=work, args=(k, job, together, barrier))
                for k, job in enumerate(jobs)
            ]
            for thread in threads:
                thread.start()
                if not together:
                    thread.join()
            for thread in threads:
                thread.join()
    return sum(ends.get((True, k)) != ends[False, k] for k in range(len(names)))


def parallel(seed: int, *, rounds: int = 2, pairs: int = len(PAIRS)) -> Row:
    """Train two models at once, in processes and in threads, and compare with one at a time."""
    names = [PAIRS[k] for _ in range(rounds) for k in range(pairs)]
    often = f"{len(names)} times two models"
    return {
        "config": {"rounds": rounds, "pairs": pairs},
        "rows": [
            {
                "what": f"two {where} at once: fits that differ in a bit from one alone",
                "often": often,
                "value": sum(measure(one) for one in names),
                "target": 0,
                "unit": "",
            }
            for where, measure in (("processes", _processes), ("threads", _threads))
        ],
    }
