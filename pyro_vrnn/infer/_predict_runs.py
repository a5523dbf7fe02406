"""A model run on draws of its weights: one draw at a time, or several with a leading dim."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.util import is_validation_enabled
from pyro.nn import PyroModule
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_vrnn.infer._predict_draws import (
    PLATE,
    GuideDraws,
    Weights,
    max_plate_nesting,
    num_draws,
    random_sites,
)
from pyro_vrnn.infer._predict_inputs import Arguments, Inputs, repeat_rows
from pyro_vrnn.infer._predict_masks import MaskDraws
from pyro_vrnn.infer._predict_outcome import (
    Outcome,
    class_probs,
    mean_shape,
    placeholder,
    read,
    whole_shape,
)
from pyro_vrnn.shapes import shape_text

DEFAULT_SITE = "obs"  # where there is one


class _Given(Messenger):
    """
    Give latents their values, and keep the distribution (and draw) of one site.

    :raises ValueError: at the end, if the site is in a plate that takes some of the sequences at
        random, or the program failed beside such a plate, whose sizes then do not fit.
    """

    def __init__(self, values: Weights, site: str, draw: bool, rows: int) -> None:
        super().__init__()
        self.values, self.site, self.draw, self.rows = values, site, draw, rows
        self.fn: Any = None
        self.sample: Tensor | None = None
        self._random: list[str] = []  # plates that subsample at random
        self._around: list[str] = []  # those of them around the site

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        error = raised[1]
        plates = self._around if error is None else self._random
        if plates and (error is None or isinstance(error, Exception)):
            raise ValueError(
                f"Expected plate {plates[0]!r} to hold all sequences that are to be predicted, got "
                "random subsamples: give the plate no subsample_size without y."
            ) from error

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            # With as many as there are rows, a plate may only stand for the scale of a minibatch.
            whole = (None, msg["fn"].size, self.rows)
            if msg["value"] is None and msg["fn"].subsample_size not in whole:
                self._random.append(msg["name"])
        elif msg["name"] == self.site:
            self.fn = msg["fn"]
            frames = {frame.name for frame in msg["cond_indep_stack"]}
            self._around = [name for name in self._random if name in frames]
            if self.draw:
                msg["is_observed"], msg["value"] = False, None
            elif msg["value"] is None:
                # What the program does after its own observation cannot change what is reported.
                msg["value"], msg["done"] = placeholder(msg["fn"]), True
        elif msg["name"] in self.values:
            msg["value"], msg["done"] = self.values[msg["name"]], True

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] == self.site:
            self.sample = msg["value"]


class Program:
    """
    A model, one site of which is read.

    It is run once, for its shapes, on the first sequence and one draw of the weights.

    :param draws: of the guide.
    :param site: None for :data:`DEFAULT_SITE`, or else the only site that the guide leaves.
    :param bool draw: whether the site is sampled too.
    :raises ValueError: if the site is missing or has not one row a sequence, or if the guide and
        the model do not share their latents.
    :raises TypeError: if the site's distribution has neither moments nor classes.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        draws: GuideDraws,
        inputs: Inputs,
        *,
        site: str | None,
        draw: bool,
    ) -> None:
        self.model, self.draw = model, draw
        self.site = DEFAULT_SITE if site is None else site
        self.draws, self.inputs = draws, inputs
        self.validated = is_validation_enabled()
        given, trace = self._first_run()
        only = _only_site(trace, draws.names)
        if site is None and only is not None and self.site not in random_sites(trace):
            self.site = only
            given, trace = self._first_run()
        self.unused = [name for name in draws.names if name not in trace.nodes]
        self.latents = _check_latents(trace, draws.names, self.site)
        self.nesting = max_plate_nesting(trace)
        self.sites = {name: trace.nodes[name] for name in self.latents}
        self.classes = class_probs(given.fn) is not None
        self.out = torch.Size()  # shape of one sequence's mean, or probabilities, classes last
        self.sample_out = torch.Size()  # shape of one sequence's observation
        whole = whole_shape(given.fn)
        if whole[:1] != (1,):
            raise ValueError(
                f"Expected site {self.site!r} to have one row a sequence, sequences first, got "
                f"shape {shape_text(whole)} for one sequence."
            )
        self.sample_out = whole[1:]
        self.out = mean_shape(given.fn)[1:]
        one = self._read(given, rows=1)
        assert one.sample is not None
        self.dtype, self.sample_dtype = one.mean.dtype, one.sample.dtype

    def _first_run(self) -> tuple[_Given, Trace]:
        if self.site in self.draws.names:
            raise ValueError(
                f"Expected a guide that leaves site {self.site!r} to the model, got one that "
                "samples it: was the guide first called without the observations?"
            )
        given = _Given(self.draws.example, self.site, draw=True, rows=1)
        with given:
            x, kwargs = self.inputs.rows(slice(0, 1))
            try:
                trace = poutine.trace(self.model).get_trace(x, **kwargs)
            except (ValueError, TypeError, RuntimeError, IndexError) as error:
                error.add_note(
                    "predict ran the model on the first sequence alone, "
                    f"{shape_text(x.shape)} of x {shape_text(self.inputs.x.shape)}."
                )
                raise
        return given, trace

    def row(self, name: str) -> tuple[torch.Size, torch.dtype]:
        """Return shape and dtype of one of :data:`DRAWS` for one sequence."""
        return (self.out, self.dtype) if name == "mean" else (self.sample_out, self.sample_dtype)

    def row_bytes(self, name: str) -> int:
        """Return the bytes of one of :data:`DRAWS` for one draw of one sequence."""
        shape, dtype = self.row(name)
        return shape.numel() * dtype.itemsize

    @property
    def masks(self) -> MaskDraws | None:
        """The draws, if they are masks."""
        return self.draws if isinstance(self.draws, MaskDraws) else None

    def dense(self, weights: Weights) -> Weights:
        """Return draws as tensors with the shapes of their sites."""
        return weights if self.masks is None else self.masks.dense(weights)

    def run_one(self, values: Weights, arguments: Arguments, validate: bool) -> Outcome:
        """Run the model on one draw; the outcome has no dim of draws."""
        x, kwargs = arguments
        given = _Given(values, self.site, self.draw, len(x))
        with self._validation(validate), given, _prefilled(self.model, values):
            self.model(x, **kwargs)
        return self._read(given, rows=len(x))

    def run_together(self, weights: Weights, arguments: Arguments, validate: bool) -> Outcome:
        """Run the model once on P draws, shaped as in ``Predictive(parallel=True)``."""
        x, kwargs = arguments
        size = num_draws(weights)
        values = {}
        for name, w in self.dense(weights).items():
            ones = (1,) * (self.nesting - w.dim() + 1)
            values[name] = w.reshape(size, *ones, *w.shape[1:])
        given = _Given(values, self.site, self.draw, len(x))
        plate = pyro.plate(PLATE, size, dim=-1 - self.nesting)
        with self._validation(validate), given, plate:
            self.model(x, **kwargs)
        return self._read(given, rows=len(x), size=size)

    def run_folded(self, weights: Weights, arguments: Arguments, validate: bool) -> Outcome:
        """Run the model once on P * n sequences, those of each draw with the draw's numbers."""
        assert self.masks is not None
        values = self.masks.folded(weights, len(arguments[0]))
        return self.run_values(values, num_draws(weights), arguments, validate)

    def run_values(
        self, values: Weights, size: int, arguments: Arguments, validate: bool = False
    ) -> Outcome:
        """Run the model once on values for P * n sequences."""
        x, kwargs = arguments
        rows = size * len(x)
        given = _Given(values, self.site, self.draw, rows)
        with self._validation(validate), given, _prefilled(self.model, values):
            self.model(repeat_rows(x, size), **self.inputs.repeated(kwargs, size))
        return self._read(given, rows=rows).unfolded(size)

    def problem(self, strategy: str, two: Weights, arguments: Arguments) -> str | None:
        """
        Say what is wrong with running two draws at once, beside running each by itself; or None.

        A program that does not know of draws may ignore all but the first, or mix them with
        sequences of the same number, without an error.
        """
        try:
            if strategy == "folded":
                assert self.masks is not None
                values = self.masks.folded(two, len(arguments[0]))
                together = self.run_values(values, 2, arguments).mean
                two = self.masks.written(two, values)
            else:
                together = self.run_together(two, arguments, False).mean
                two = self.dense(two)
        except Exception as error:  # whatever a program does with a dim it does not know
            return f"{type(error).__name__}: {error}"
        alone = (self.run_one(slice_draws(two, i), arguments, False).mean for i in range(2))
        single = torch.stack(list(alone))
        eps = torch.finfo(single.dtype).eps
        equal = (together == single) | (together.isnan() & single.isnan())
        gap = torch.where(equal, 0.0, together - single).abs().amax()
        finite = single.nan_to_num(0.0, 0.0, 0.0)
        bound = 0.01 * (finite[1] - finite[0]).abs().amax() + 1e3 * eps * finite.abs().amax()
        return None if bool(gap <= bound) else f"means that differ by {gap.item():.3g}"

    def _validation(self, on: bool) -> AbstractContextManager[None]:
        """Turn on what the user had on; Job turns it off for all but the first draws."""
        return pyro.validation_enabled(self.validated) if on else nullcontext()

    def _read(self, given: _Given, rows: int, size: int | None = None) -> Outcome:
        shapes = (self.out, self.sample_out)
        return read(self.site, given.fn, given.sample if given.draw else None, rows, size, shapes)


def slice_draws(weights: Weights, rows: slice | int) -> Weights:
    """Return some of the draws, or one."""
    return {name: w[rows] for name, w in weights.items()}


def run_loop(
    program: Program, weights: Weights, arguments: Arguments, first: bool = False
) -> Outcome:
    """Run draw by draw with matrices, so that an RNN takes the library kernel."""
    size = num_draws(weights)
    rows: list[Tensor] = []
    for i in range(size):
        values = program.dense(slice_draws(weights, slice(i, i + 1)))
        one = program.run_one(slice_draws(values, 0), arguments, first and i == 0)
        if i == 0:
            rows = [part.new_empty(size, *part.shape) for part in one.parts()]
        for row, part in zip(rows, one.parts(), strict=True):
            row[i] = part
    mean, *rest = rows
    variance = None if program.classes else rest.pop(0)
    return Outcome(mean, variance, rest[0] if rest else None)


def run_batched(
    program: Program, weights: Weights, arguments: Arguments, first: bool = False
) -> Outcome:
    """Run all draws at once, weights with a leading dim."""
    return program.run_together(weights, arguments, first)


def run_folded(
    program: Program, weights: Weights, arguments: Arguments, first: bool = False
) -> Outcome:
    """Run all draws at once as parts of one batch, for draws that are masks."""
    return program.run_folded(weights, arguments, first)


# The last argument: whether these are the first draws of a prediction, which are validated.
Runner = Callable[[Program, Weights, Arguments, bool], Outcome]
RUNNERS: dict[str, Runner] = {"loop": run_loop, "batched": run_batched, "folded": run_folded}


def _only_site(trace: Trace, drawn: list[str]) -> str | None:
    """Return the one site that the guide leaves to the model and is no deterministic one."""
    left = [
        name
        for name, site in random_sites(trace).items()
        if name not in drawn and not site["infer"].get("_deterministic")
    ]
    return left[0] if len(left) == 1 else None


def _check_latents(trace: Trace, drawn: list[str], site: str) -> list[str]:
    """Return the latents that the guide samples, each one value for all sequences."""
    sites = random_sites(trace)
    if site not in sites:
        others = ", ".join(name for name in sites if name not in drawn)
        raise ValueError(f"Expected site to be one of the model's ({others}), got {site!r}.")
    plates = {frame.name for frame in sites[site]["cond_indep_stack"] if frame.vectorized}
    latents = [name for name in sites if name in drawn]
    missing = []
    for name, node in sites.items():
        inside = sorted(plates & {frame.name for frame in node["cond_indep_stack"]})
        if inside and name in drawn:
            raise ValueError(
                "Expected a guide with one value of each latent for all sequences, got "
                f"'{name}' inside plate {inside[0]!r}; use pyro.infer.Predictive."
            )
        given = name in drawn or node["is_observed"] or name == site
        if not (inside or given):
            missing.append(name)
    if missing or not latents:
        names = ", ".join(map(repr, missing)) or "any"
        raise ValueError(
            f"Expected the guide to sample every latent of the model, got none of {names}."
        )
    return latents


@contextlib.contextmanager
def _prefilled(model: Callable[..., Any], values: Weights) -> Iterator[None]:
    """
    Put the weights where a PyroModule keeps those it has read in a call.

    It then makes neither prior nor site for them, half the time of a run on one short sequence.
    """
    if not isinstance(model, PyroModule):
        yield
        return
    context = model._pyro_context
    with context:
        for name, value in values.items():
            context.set(name, value)
        yield
