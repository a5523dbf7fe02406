"""One prediction from start to end: draws of the guide, runs of the model, and their summaries."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pyro
import torch
from tqdm.auto import tqdm

from pyro_vrnn.infer._predict_draws import GuideDraws, Stream, Weights, num_draws
from pyro_vrnn.infer._predict_inputs import Inputs
from pyro_vrnn.infer._predict_masks import MaskDraws, has_masks_only
from pyro_vrnn.infer._predict_outcome import DRAWS
from pyro_vrnn.infer._predict_plan import (
    Plan,
    choose_strategy,
    make_plan,
    measure,
    pieces,
    spans_pay,
)
from pyro_vrnn.infer._predict_runs import (
    RUNNERS,
    Program,
    Runner,
    slice_draws,
)
from pyro_vrnn.infer._predict_spans import SpanDraws, has_scalar_noise
from pyro_vrnn.infer._predict_summaries import Collector
from pyro_vrnn.infer.pairs import check_sites
from pyro_vrnn.ops.compiled import why_not

logger = logging.getLogger(__name__)

# The guide draws this many bytes of weights in one call, or one draw if that is more. On the CPU
# larger blocks leave its cache: at H = 200 a draw took 0.6 ms in blocks of 2 to 5 MiB, 1.0 in 15.
BLOCK_BYTES = {"cpu": 2**22, "gpu": 2**28}


class Job:
    """
    What is to be predicted, checked on one draw and one sequence.

    :param kept: which of :data:`DRAWS` to return.
    :param levels: of quantiles.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        inputs: Inputs,
        site: str | None,
        seed: int,
        kept: Sequence[str],
        levels: tuple[float, ...],
        parallel_guide: bool,
    ) -> None:
        self.inputs, self.kept, self.levels = inputs, kept, levels
        self.device = inputs.device
        x, kwargs = inputs.given()
        # The weights' numbers are apart from those of y, so that no cut changes them.
        stream = Stream(seed, self.device)
        mixed = torch.Generator().manual_seed(seed)
        self.noise = Stream(int(torch.randint(2**62, (), generator=mixed)), self.device)
        kind: type[GuideDraws] = MaskDraws if has_masks_only(guide) else GuideDraws

        def draws(kind: Callable[..., Any]) -> Any:
            return kind(guide, (x,), kwargs, stream=stream, parallel=parallel_guide)

        self.draws: GuideDraws = draws(kind)
        spans = len(inputs.x) == 1 and kind is GuideDraws and has_scalar_noise(guide)
        self._spans = partial(draws, SpanDraws) if spans else None
        with self.noise.lend():
            draw = bool(levels) or "observation" in kept
            self.program = Program(model, self.draws, inputs, site=site, draw=draw)
        check_sites(model, guide, self.program.unused)
        self.draws.keep(self.program.latents)
        if self.program.classes and levels:
            raise ValueError(
                f"Expected no quantiles of classes (site {self.program.site!r}), got {levels}."
            )

    def run(
        self, num_samples: int, strategy: str, max_bytes: int, progress: bool
    ) -> dict[str, Any]:
        """Return the fields of a Prediction."""
        count = len(self.inputs.x)
        width = self._sequences_kept(num_samples, max_bytes)
        strategy, plan = self._plan(num_samples, strategy, max_bytes)
        self.noise.restart()  # whatever was tried
        sink = Collector(self.program, num_samples, count, self.kept, self.levels, self.device)
        cuts = list(pieces(count, width))
        bar = tqdm(total=num_samples * len(cuts), desc="predict", unit="draw", disable=not progress)
        # The guide's parameters, and the sequences, need not be looked at again for every draw.
        with bar, pyro.validation_enabled(False):
            for cut in cuts:
                sink.begin(cut)
                seen = 0
                for weights in self.draws.blocks(num_samples, plan.block):
                    with self.noise.lend():
                        self._run_block(RUNNERS[strategy], plan, weights, cut, seen, sink)
                    seen += num_draws(weights)
                    bar.update(num_draws(weights))
                sink.end()
        return {"strategy": strategy, **sink.fields()}

    def _run_block(
        self, runner: Runner, plan: Plan, weights: Weights, cut: slice, seen: int, sink: Collector
    ) -> None:
        for piece in pieces(num_draws(weights), plan.draws):
            some = slice_draws(weights, piece)
            for rows in pieces(cut.stop, plan.sequences, start=cut.start):
                number = seen + piece.start
                outcome = runner(self.program, some, self.inputs.rows(rows), number == 0)
                sink.add(rows, number, outcome)

    def _sequences_kept(self, num_samples: int, max_bytes: int) -> int:
        """
        Return for how many sequences at a time all draws of y are held, for their quantiles.

        :raises ValueError: if what was asked for takes more than ``max_bytes``.
        """
        count = len(self.inputs.x)
        one = {name: num_samples * self.program.row_bytes(name) for name in DRAWS}
        returned = count * sum(one[name] for name in self.kept)
        if returned > max_bytes:
            raise ValueError(
                f"Expected draws of at most max_bytes={max_bytes}, got {returned} bytes for "
                f"{num_samples} draws of {count} sequences."
            )
        if not self.levels or "observation" in self.kept:
            return count
        if one["observation"] > max_bytes:
            raise ValueError(
                f"Expected max_bytes of at least {one['observation']}, the bytes that the "
                f"quantiles of one sequence need from {num_samples} draws, got {max_bytes}."
            )
        return min(count, max_bytes // one["observation"])

    def _plan(self, num_samples: int, strategy: str, max_bytes: int) -> tuple[str, Plan]:
        """
        Return how the model is run, checked on two draws, and the cut; choose the draws for it.

        :raises ValueError: if it cannot be run in the way that was asked for.
        """
        device = "cpu" if self.device.type == "cpu" else "gpu"
        count = len(self.inputs.x)
        sizes = measure(
            self.inputs.x,
            self.program.sites,
            weights=self.draws.nbytes,
            outputs=self.program.out.numel(),
            dtype=self.program.dtype,
        )
        names = [strategy]
        masks_only = self.program.masks is not None
        if strategy == "auto":
            how = device if why_not(self.device.type, self.program.dtype) else "compiled"
            names = [choose_strategy(sizes, num_samples, count, how, masks=masks_only), "loop"]
            if self._spans is not None and num_samples > 1:
                names.insert(0, "folded")
        given = self.draws
        for name in names:
            draws, problem = given, None
            if name == "folded" and not masks_only:
                draws, problem = self._spanned()
                pays = strategy != "auto" or spans_pay(sizes, draws.held_bytes, device)
                if problem is None and not pays:
                    continue
            self.draws = self.program.draws = draws
            block = draws.block_size(BLOCK_BYTES[device])
            sizes = replace(sizes, basis=draws.run_bytes)
            plan = make_plan(sizes, name, block, count, max_bytes, device)
            if name != "loop" and problem is None:
                problem = self._problem(name, plan)
            if problem is None:
                break
            if strategy != "auto":
                raise ValueError(
                    "Expected a model that Predictive(parallel=True) can run, and that draws "
                    f"nothing but its observation, got {problem}; use strategy='loop'."
                )
            logger.info("Draws are not run together ('%s'): that gave %s.", name, problem)
        return name, plan

    def _spanned(self) -> tuple[SpanDraws, str | None]:
        """
        Return draws of what one sequence needs, and why if the model does not allow them.

        :raises ValueError: if the guide does not, or there are several sequences.
        """
        if self._spans is None:
            raise ValueError(
                "Expected an AutoSpikeAndSlab guide with scale=0 and blocks of whole columns or "
                "rows for strategy='folded', or with one scale for all weights of a site and one "
                "sequence, got another; use strategy='auto'."
            )
        draws: SpanDraws = self._spans()
        arguments = self.inputs.rows(slice(0, 1))
        try:
            with self.noise.lend():
                draws.learn_uses(lambda values: self.program.run_values(values, 1, arguments))
        except Exception as error:  # whatever a program does with a draw that is not written out
            return draws, f"{type(error).__name__}: {error}"
        return draws, None

    def _problem(self, strategy: str, plan: Plan) -> str | None:
        rows = slice(0, min(len(self.inputs.x), plan.sequences))
        two = next(self.draws.blocks(2, 2))
        with self.noise.lend():
            return self.program.problem(strategy, two, self.inputs.rows(rows))
