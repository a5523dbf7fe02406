"""Draws of a guide's weights, in blocks that do not depend on what is done with them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoCallable
from pyro.poutine import Trace
from pyro.poutine.util import site_is_factor, site_is_subsample
from torch import Tensor

Weights = dict[str, Tensor]
PLATE = "_predict_draws"
MAX_BLOCK = 1024  # draws; one call of the guide is then no cost beside the normals


class Stream:
    """Random numbers of its own: torch's generators are lent to it and given back as they were."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._seed = seed
        cuda = device.type == "cuda"
        index = torch.cuda.current_device() if cuda and device.index is None else device.index
        self._gpus = [index] if cuda else []
        self._state: list[Tensor] | None = None

    def restart(self) -> None:
        """Begin again with the first number."""
        self._state = None

    @contextlib.contextmanager
    def lend(self) -> Iterator[None]:
        """Let the code in this context draw the stream's next numbers."""
        with torch.random.fork_rng(devices=self._gpus):
            if self._state is None:
                torch.default_generator.manual_seed(self._seed)
                for gpu in self._gpus:
                    torch.cuda.default_generators[gpu].manual_seed(self._seed)
            else:
                torch.set_rng_state(self._state[0])
                for gpu, state in zip(self._gpus, self._state[1:], strict=True):
                    torch.cuda.set_rng_state(state, gpu)
            yield
            states = [torch.cuda.get_rng_state(gpu) for gpu in self._gpus]
            self._state = [torch.get_rng_state(), *states]


class GuideDraws:
    """
    Draws of a guide's latents, whole functions: one value for all sequences and steps of a draw.

    :param parallel: draw a block in one call, inside a plate, as ``Predictive(parallel=True)``.
    """

    def __init__(
        self,
        guide: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        stream: Stream,
        parallel: bool,
    ) -> None:
        _check_built(guide)
        self._run = (guide, args, kwargs)
        self._parallel = parallel
        self.stream = stream
        with stream.lend():
            trace = self._trace()
        self._sites = random_sites(trace)
        self._nesting = max_plate_nesting(trace)

    @property
    def names(self) -> list[str]:
        """The sites that are drawn."""
        return list(self._sites)

    @property
    def example(self) -> Weights:
        """One draw of the sites outside plates; inside, sizes may be those of the data."""
        return {
            name: site["value"]
            for name, site in self._sites.items()
            if not any(frame.vectorized for frame in site["cond_indep_stack"])
        }

    def keep(self, names: Sequence[str]) -> None:
        """Keep only the values of these sites."""
        self._sites = {name: self._sites[name] for name in names}

    @property
    def nbytes(self) -> int:
        """Bytes of the weights of one draw."""
        values = [site["value"] for site in self._sites.values()]
        return sum(value.numel() * value.element_size() for value in values)

    @property
    def held_bytes(self) -> int:
        """Bytes that a block holds of one draw."""
        return self.nbytes

    @property
    def run_bytes(self) -> int:
        """Bytes that a run needs for one draw, apart from its weights and sequences."""
        return 0

    def block_size(self, block_bytes: int) -> int:
        """Return how many draws a block holds: as many as fit, 1 at least."""
        return max(1, min(MAX_BLOCK, block_bytes // max(1, self.held_bytes)))

    def blocks(self, num_samples: int, block_size: int) -> Iterator[Weights]:
        """Draw anew from the start of the stream: the same draws at every call."""
        self.stream.restart()
        for start in range(0, num_samples, block_size):
            with self.stream.lend():
                block = self._draw(min(block_size, num_samples - start))
            yield block

    def _trace(self) -> Trace:
        guide, args, kwargs = self._run
        return poutine.trace(guide).get_trace(*args, **kwargs)

    def _draw(self, size: int) -> Weights:  # name -> (size, *shape of one draw)
        if not self._parallel:
            singles = [self._trace() for _ in range(size)]
            return {n: torch.stack([t.nodes[n]["value"] for t in singles]) for n in self._sites}
        try:
            with pyro.plate(PLATE, size, dim=-1 - self._nesting):
                trace = self._trace()
            return {name: self._rows(trace.nodes[name], size) for name in self._sites}
        except Exception as error:  # whatever a guide does with a dim it does not know
            raise ValueError(
                "Expected a guide that can draw several times in a plate, as for "
                f"Predictive(parallel=True), got {type(error).__name__}: {error}. Give "
                "parallel_guide=False to draw one by one."
            ) from error

    def _rows(self, site: dict[str, Any], size: int) -> Tensor:
        value, one = site["value"], self._sites[site["name"]]
        shape = one["value"].shape
        ones = (1,) * (self._nesting - len(one["fn"].batch_shape))
        return value.expand(size, *ones, *shape).reshape(size, *shape)


def num_draws(weights: Mapping[str, Tensor]) -> int:
    """Return P, the number of draws."""
    return len(next(iter(weights.values())))


def max_plate_nesting(trace: Trace) -> int:
    """Return how many dims the plates of a program take."""
    dims = [
        frame.dim
        for site in trace.nodes.values()
        if site["type"] == "sample"
        for frame in site["cond_indep_stack"]
        if frame.vectorized
    ]
    return -min(dims, default=0)


def random_sites(trace: Trace) -> dict[str, dict[str, Any]]:
    """Return the sites that hold a random or recorded value."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not (site_is_subsample(site) or site_is_factor(site))
    }


def _check_built(guide: Callable[..., Any]) -> None:
    """Refuse an autoguide that would take the observations for latents at this, its first call."""
    parts = guide.modules() if isinstance(guide, torch.nn.Module) else ()
    for part in parts:
        # An AutoCallable never has a prototype, and needs none.
        if not isinstance(part, AutoCallable) and getattr(part, "prototype_trace", part) is None:
            raise RuntimeError(
                f"Expected a guide that has its sites, got a {type(part).__name__} that was never "
                "called: first call the guide once with the model's arguments, observations "
                "included."
            )
