"""NaN and infinity, put into data, gradients and parameters at random places."""

from __future__ import annotations

import math
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.reliability_child import BATCHES, RECIPES, Job, checkpoint_digest, num_steps, train
from benchmarks.reliability_crashes import kept
from pyro_vrnn.infer import CheckpointFolder, FitResult

Row = dict[str, Any]
RECIPE = "list"
HELD = ("raised", "named", "whole", "same")
VALUES = {"NaN": math.nan, "infinity": math.inf, "-infinity": -math.inf}


class Steps:
    """A callback that counts steps, and does something after one of them."""

    every = "step"

    def __init__(self, at: int = -1, act: Callable[[], Any] = lambda: None) -> None:
        self.at, self.act, self.made = at, act, 0

    def __call__(self, result: FitResult) -> None:
        self.made = result.steps.length
        if self.made == self.at:
            self.act()


def _into(tensor: Tensor, value: float, rng: random.Random) -> list[int]:
    """Put a number at a random place, and return the place."""
    place = [rng.randrange(size) for size in tensor.shape]
    with torch.no_grad():
        tensor[tuple(place)] = value
    return place


def _name(job: Job, rng: random.Random) -> tuple[str, Tensor]:
    """Choose a parameter of the guide or of the model."""
    named = {f"guide.{name}": parameter for name, parameter in job.guide.named_parameters()}
    named |= {f"model.{name}": parameter for name, parameter in job.model.named_parameters()}
    return rng.choice(sorted(named.items()))


def _plan(
    what: str, value: float, job: Job, rng: random.Random, most: int = num_steps(RECIPE)
) -> tuple[int, Steps, list[str]]:
    """Prepare a fit that goes wrong: after how many good steps, and what the message must name."""
    names: list[str] = []
    if what == "data":
        good, which = rng.randrange(BATCHES), rng.randrange(2)
        place = _into(job.data[good][which], value, rng)
        shape = ", ".join(map(str, place))
        return good, Steps(), [f"argument {which} of the batch", f"({value} at index ({shape}"]
    good = rng.randrange(1, most)
    if what == "gradient":

        def hook() -> None:
            name, parameter = _name(job, rng)
            names.append(f"gradient of {name}")
            mask = torch.zeros_like(parameter)
            _into(mask, value, rng)
            parameter.register_hook(lambda gradient: gradient + mask)

        return good, Steps(good, hook), names

    def change() -> None:
        name, parameter = _name(job, rng)
        names.append(name)
        _into(parameter, value, rng)

    return good, Steps(good, change), names


def _one(what: str, value: float, rng: random.Random, unbroken: str) -> Row:
    job = RECIPES[RECIPE]()
    good, steps, names = _plan(what, value, job, rng)
    message, same, loads = "", False, False
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "checkpoints"
        try:
            train(job, folder, [steps])
        except FloatingPointError as error:
            message = str(error)
        found = kept(folder)
        last = CheckpointFolder(folder).load_last()
        if last is not None:
            module = [v for n, v in last.tensors.items() if n.startswith("module/")]
            loads = all(bool(torch.isfinite(v).all()) for v in module)
        if message:
            train(RECIPES[RECIPE](), folder)
            same = checkpoint_digest(folder) == unbroken
    whole = loads and found.damaged == 0 and good - 2 <= found.last <= good
    if good == 0:  # the first call of the model comes before the first checkpoint
        whole |= found == (0, 0, -1)
    return {
        "what": what,
        "value": str(value),
        "good_steps": good,
        "message": message.partition("\n")[0],
        "raised": bool(message),
        "updates_after": steps.made - good,
        "names": names,
        "named": all(name in message for name in names),
        "last": found.last,
        "whole": whole,
        "same": same,
    }


def numbers(seed: int, *, times: int = 3) -> Row:
    """Put each number into each thing some times; see what is raised, named and kept."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as scratch:
        train(RECIPES[RECIPE](), Path(scratch))
        unbroken = checkpoint_digest(Path(scratch))
    places = ("data", "gradient", "parameter")
    found = [
        {**_one(what, value, rng, unbroken), "number": name}
        for what in places
        for name, value in VALUES.items()
        for _ in range(times)
    ]
    often = f"each of {', '.join(VALUES)} in {times} random places"
    rows = [
        {
            "what": f"not finite in {'the data' if what == 'data' else f'a {what}'}: without an "
            "error, the place named in it, a whole last checkpoint, or an exact resumption",
            "often": often,
            "value": sum(
                not all(one[held] for held in HELD) for one in found if one["what"] == what
            ),
            "target": 0,
            "unit": "",
        }
        for what in places
    ]
    late = {
        "what": "not finite: updates made after it",
        "often": f"{len(found)} cases",
        "value": max(one["updates_after"] for one in found),
        "target": 1,
        "unit": "steps",
    }
    return {
        "config": {"times": times, "recipe": RECIPE},
        "rows": [*rows, late],
        "faults": found,
    }
