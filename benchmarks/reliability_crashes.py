"""Training processes that are killed or told to end, at random moments, and started again."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.reliability_child import RECIPES, num_steps
from pyro_vrnn.archives import DamagedArchiveError
from pyro_vrnn.infer import CheckpointFolder

ROOT = Path(__file__).resolve().parents[1]
# Seconds that a step, a save and the reading of a checkpoint take at most, roughly.
STEP, SAVE, START = 0.01, 0.012, 0.04
LAST_STEPS = 4  # no kill is aimed there, so that each finds a process that is training
Row = dict[str, Any]


class Child:
    """A training process and what it has said."""

    def __init__(self, recipe: str, folder: Path, *flags: str) -> None:
        command = [sys.executable, "-m", "benchmarks.reliability_child", recipe, str(folder)]
        self.process = subprocess.Popen(
            [*command, *flags],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[list[str]] = []

    def wait_for(self, word: str, number: int = 0) -> bool:
        """Read until it says ``word`` with at least ``number``; False if it ends before."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.split())
            said, *rest = self.lines[-1]
            if said == word and (not rest or int(rest[0]) >= number):
                return True
        return False

    def end(self) -> int:
        """Read the rest, and return the exit status."""
        output, self.errors = self.process.communicate()
        self.lines += [line.split() for line in output.splitlines()]
        return self.process.returncode

    def last(self, word: str) -> int:
        """Return the last number said with ``word``, or -1."""
        return max((int(line[1]) for line in self.lines if line[0] == word), default=-1)


class Kept(NamedTuple):
    """What is in a folder of checkpoints."""

    whole: int
    damaged: int
    last: int


def kept(folder: Path) -> Kept:
    """Count checkpoints that load and that do not; the step of the last that does, or -1."""
    checkpoints = CheckpointFolder(folder)
    whole, damaged = [], 0
    for step in checkpoints.steps():
        try:
            whole.append(checkpoints.load(step).step)
        except (DamagedArchiveError, FileNotFoundError):
            damaged += 1
    return Kept(len(whole), damaged, max(whole, default=-1))


def finish(recipe: str, folder: Path) -> list[str]:
    """Let a run go to its end, and return the digests it says."""
    child = Child(recipe, folder)
    status = child.end()
    if status != 0:
        raise RuntimeError(f"Expected {recipe} to end, got status {status}: {child.errors}")
    return child.lines[-1][1:]


@cache
def unbroken(recipe: str) -> list[str]:
    """Return the digests of a run in one piece."""
    with tempfile.TemporaryDirectory() as folder:
        return finish(recipe, Path(folder))


def _kill(child: Child, aim: str, target: int, rng: random.Random) -> Row | None:
    """Kill it, and say where it was; None if it had ended."""
    words = {"start": ("ready", 0, START), "save": ("saving", target, SAVE)}
    word, number, longest = words.get(aim, ("step", target, STEP + SAVE))
    if not child.wait_for(word, number):
        return None
    time.sleep(rng.uniform(0, longest))
    child.process.kill()
    child.end()
    place = {"ready": "start", "saving": "save"}.get(child.lines[-1][0], "training")
    return {"aimed": aim, "landed": place, "step": max(child.last("step"), 0)}


def _kills_of_run(
    recipe: str, count: int, most: int | None, folder: Path, rng: random.Random
) -> list[Row]:
    """Kill one run several times, in its first ``most`` steps; look at its folder each time."""
    aims = ["save"] * (count * 3 // 10) + ["start"] * (count // 10)
    aims += ["moment"] * (count - len(aims))
    rng.shuffle(aims)
    targets = sorted(rng.randrange(1, most or num_steps(recipe) - LAST_STEPS) for _ in aims)
    found: list[Row] = []
    saved = -1
    for aim, target in zip(aims, targets, strict=True):
        child = Child(recipe, folder)
        kill = _kill(child, aim, target, rng)
        if kill is None:
            continue
        saved = max(saved, child.last("saved"))
        now = kept(folder)
        found.append(
            {
                "recipe": recipe,
                **kill,
                "saved": saved,
                **now._asdict(),
                "none_left": now.whole == 0 and (saved >= 0 or any(k["whole"] for k in found)),
                "lost": now.last < saved,
            }
        )
    return found


def kills(seed: int, *, runs: int = 10, count: int = 10, most: int | None = None) -> Row:
    """Kill runs, ``count`` times each, and let them go to their end."""
    rng = random.Random(seed)
    found: list[Row] = []
    differing = 0
    names = [list(RECIPES)[k % len(RECIPES)] for k in range(runs)]
    for name in names:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "checkpoints"
            found += _kills_of_run(name, count, most, folder, rng)
            differing += finish(name, folder) != unbroken(name)
    landed = Counter(kill["landed"] for kill in found)
    often = f"{len(found)} kills: " + ", ".join(f"{n} in {w}" for w, n in sorted(landed.items()))
    each = f"{runs} runs, {count} kills each"

    def row(what: str, often: str, value: int) -> Row:
        return {"what": what, "often": often, "value": value, "target": 0, "unit": ""}

    return {
        "config": {"runs": runs, "kills a run": count},
        "rows": [
            row("`kill -9`: folders left without a whole checkpoint", often,
                sum(kill["none_left"] for kill in found)),
            row("`kill -9`: damaged checkpoints in sight", often,
                sum(kill["damaged"] for kill in found)),
            row("`kill -9`: checkpoints lost that had been saved", often,
                sum(kill["lost"] for kill in found)),
            row("`kill -9`: ends that differ in a bit from the unbroken run's", each, differing),
        ],
        "kills": found,
    }  # fmt: skip


CASES = [(number, exits) for number in (signal.SIGTERM, signal.SIGINT) for exits in (False, True)]
STATUS = {
    (signal.SIGTERM, False): -signal.SIGTERM,
    (signal.SIGTERM, True): 143,
    (signal.SIGINT, False): -signal.SIGINT,
    (signal.SIGINT, True): 130,
}


def _signalled(
    recipe: str, case: tuple[signal.Signals, bool], folder: Path, target: int, rng: random.Random
) -> Row | None:
    number, exits = case
    child = Child(recipe, folder, "--seldom", *(["--exits"] if exits else []))
    if not child.wait_for("step", target):
        return None
    time.sleep(rng.uniform(0, STEP + SAVE))
    child.process.send_signal(number)
    status = child.end()
    step, last = child.last("step"), kept(folder).last
    return {
        "recipe": recipe,
        "signal": number.name,
        "handler": "exits" if exits else "default",
        "status": status,
        "expected": int(STATUS[case]),
        "step": step,
        "last": last,
        "late": step - last,
    }


def signals(seed: int, *, rounds: int = 5) -> Row:
    """Send SIGTERM and SIGINT, to a script with handlers and one without, each once a round."""
    rng = random.Random(seed)
    found: list[Row] = []
    differing = 0
    names = [list(RECIPES)[k % len(RECIPES)] for k in range(rounds)]
    for name in names:
        cases = CASES[:]
        rng.shuffle(cases)
        steps = num_steps(name) - LAST_STEPS
        targets = sorted(rng.randrange(1, steps) for _ in cases)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "checkpoints"
            for case, target in zip(cases, targets, strict=True):
                signalled = _signalled(name, case, folder, target, rng)
                found += [] if signalled is None else [signalled]
            differing += finish(name, folder) != unbroken(name)
    rows = []
    for number in (signal.SIGTERM, signal.SIGINT):
        of = [one for one in found if one["signal"] == number.name]
        default, handled = (STATUS[number, exits] for exits in (False, True))
        rows += [
            {
                "what": f"{number.name}: exit statuses other than {default:d}, "
                f"or {handled:d} where the script says so",
                "often": f"{len(of)} signals",
                "value": sum(one["status"] != one["expected"] for one in of),
                "target": 0,
                "unit": "",
            },
            {
                "what": f"{number.name}: age of the last checkpoint",
                "often": f"{len(of)} signals",
                "value": max((one["late"] for one in of), default=0),
                "target": 1,
                "unit": "steps",
            },
        ]
    rows.append(
        {
            "what": "signals: ends that differ in a bit from the unbroken run's",
            "often": f"{rounds} runs, {len(CASES)} signals each",
            "value": differing,
            "target": 0,
            "unit": "",
        }
    )
    return {"config": {"runs": rounds, "signals a run": len(CASES)}, "rows": rows, "signals": found}
