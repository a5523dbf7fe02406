"""
Rows of a whole SVI step of a word-level language model, against the same network in plain torch.

Guard against a step in which drawing, scoring or Pyro's bookkeeping outgrow the network: dense
draws of the embedding, log densities that nobody needs, a KL by quadrature, a slow optimiser path.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import ELBO, Trace_ELBO, TraceMeanField_ELBO
from pyro.nn import PyroModule, PyroParam
from torch import Tensor
from torch.distributions import kl_divergence

import pyro_vrnn as vrnn
from benchmarks.speed_timing import (
    Case,
    Program,
    Setting,
    compare,
    in_turns,
    layer_products,
    with_counts,
)
from pyro_vrnn.distributions.lazy_rows import LazyRows
from pyro_vrnn.distributions.sequence_draw import SequenceDraw
from pyro_vrnn.nn.own_params import module_local_params
from pyro_vrnn.ops.particles import embedding, linear
from pyro_vrnn.ops.recurrent import LayerWeights, recurrent

STEPS, SEQUENCES, LAYERS, VOCABULARY = 35, 20, 2, 10_000
SIZES = (200, 650)
REFERENCE = "plain torch"


class WordModel(PyroModule):
    """Next word at every step, as a Pyro program by hand; ids (T, N)."""

    def __init__(
        self, vocabulary: int, hidden: int, categorical: type = vrnn.distributions.Categorical
    ) -> None:
        super().__init__()
        self.categorical = categorical
        self.embedding = vrnn.nn.Embedding(vocabulary, hidden)
        self.lstm = vrnn.nn.LSTM(hidden, hidden, LAYERS)
        self.head = vrnn.nn.Linear(hidden, vocabulary)

    def forward(self, ids: Tensor, targets: Tensor) -> None:
        """Run the program."""
        h, _ = self.lstm(self.embedding(ids, batch_dim=1))
        logits = self.head(h, particles=h.dim() - 3, batch_dim=1)
        with pyro.plate("tokens", ids.numel()):
            flat = logits.flatten(-3, -2)
            pyro.sample("obs", self.categorical(logits=flat), obs=targets.flatten())


class PlainModel(torch.nn.Module):
    """The same network without Bayes; its forward is the loss."""

    def __init__(self, vocabulary: int, hidden: int) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(vocabulary, hidden)
        self.lstm = torch.nn.LSTM(hidden, hidden, LAYERS)
        self.head = torch.nn.Linear(hidden, vocabulary)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Return the cross entropy, summed over tokens."""
        logits = self.head(self.lstm(self.embedding(ids))[0])
        return torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), reduction="sum"
        )


class PlainByOurProduct(PlainModel):
    """The same with its output layer by our product: how much of a ratio is oneDNN's doing."""

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Return the cross entropy, summed over tokens."""
        h, _ = self.lstm(self.embedding(ids))
        logits = linear(h, self.head.weight, self.head.bias)
        return torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), reduction="sum"
        )


class HandGuide(PyroModule):
    """Explicit Pyro: a normal for every weight of a model, drawn whole."""

    def __init__(self, shapes: dict[str, torch.Size], device: torch.device) -> None:
        super().__init__()
        self.names = list(shapes)
        for name, shape in shapes.items():
            loc = 0.05 * torch.randn(shape, device=device)
            setattr(self, name.replace(".", "_"), PyroParam(loc))

    def forward(self, ids: Tensor, targets: Tensor) -> None:
        """Draw every weight."""
        for name in self.names:
            loc = getattr(self, name.replace(".", "_"))
            pyro.sample(name, dist.Normal(loc, 0.01).to_event(loc.dim()))


def batch(vocabulary: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ids and targets (T, N): uniform ids, which have the most distinct types."""
    ids = torch.randint(vocabulary, (STEPS, SEQUENCES), device=device)
    return ids, torch.randint(vocabulary, (STEPS, SEQUENCES), device=device)


class Trainer:
    """A loss module, its optimiser and one batch."""

    def __init__(self, loss: torch.nn.Module, data: tuple[Tensor, Tensor], fused: bool) -> None:
        self.loss, self.data = loss, data
        with torch.no_grad():
            loss(*data)  # an autoguide is built by its first call
        parameters = [p for p in loss.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True if fused else None)

    def step(self) -> None:
        """Make one step."""
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(*self.data).backward()
        self.optimizer.step()


def our_guide(model: WordModel, scope: str, scale: float) -> vrnn.infer.AutoSpikeAndSlab:
    """Return the guide of the rows."""
    return vrnn.infer.AutoSpikeAndSlab(model, drop_prob=0.25, scope=scope, scale=scale)


def elbo_module(elbo: ELBO, model: PyroModule, guide: PyroModule) -> torch.nn.Module:
    """Return the ELBO as a module under parameters of its own, as ``fit`` has them."""
    module: torch.nn.Module = elbo(model, guide)
    return module


def step_products(hidden: int, *, noise: bool) -> float:
    """Return the multiply-adds of a step: two layers and the output, forward and backward."""
    shape = (STEPS, SEQUENCES, hidden)
    head = STEPS * SEQUENCES * hidden * VOCABULARY * (5 if noise else 3)
    return LAYERS * layer_products("LSTM", shape, noise=noise) + head


@dataclass(frozen=True)
class Step:
    """What a row trains, and how; the defaults are the package's."""

    hidden: int = 200
    scope: str = "batch"
    scale: float = 0.01
    fused: bool = False
    elbo: type[ELBO] = vrnn.infer.TraceExactKL_ELBO
    categorical: type = vrnn.distributions.Categorical
    by_hand: bool = False

    def programs(self, device: torch.device) -> tuple[WordModel, PyroModule]:
        """Return a model and its guide."""
        model = WordModel(VOCABULARY, self.hidden, self.categorical).to(device)
        guide = our_guide(model, self.scope, self.scale)
        if not self.by_hand:
            return model, guide
        guide(*batch(VOCABULARY, device))
        return model, HandGuide({n: site.shape for n, site in guide.sites.items()}, device)

    def measure(self, setting: Setting) -> dict[str, Any]:
        """Time it against the plain network."""
        data = batch(VOCABULARY, setting.device)
        network = PlainModel(VOCABULARY, self.hidden).to(setting.device)
        plain = Trainer(network, data, self.fused)
        model, guide = self.programs(setting.device)
        with module_local_params(model, guide):
            ours = Trainer(elbo_module(self.elbo(), model, guide), data, self.fused)
            found = compare(setting, plain.step, ours.step)
        noise = self.scope == "sequence" and self.scale > 0
        counts = step_products(self.hidden, noise=False), step_products(self.hidden, noise=noise)
        weights = sum(p.numel() for p in network.parameters())
        return with_counts(setting, found, *counts) | {"weights": weights}


def _measure_product(setting: Setting, hidden: int) -> dict[str, Any]:
    data = batch(VOCABULARY, setting.device)
    plain, other = (
        Trainer(kind(VOCABULARY, hidden).to(setting.device), data, False)
        for kind in (PlainModel, PlainByOurProduct)
    )
    return compare(setting, plain.step, other.step)


def force(values: dict[str, Tensor], ids: Tensor) -> None:
    """Draw what waits for its first use."""
    for name, value in values.items():
        if isinstance(value, SequenceDraw):
            if name.startswith("embedding"):
                value.rows(ids, 1)
            else:
                value.masked_weight(ids.shape[1])
        elif isinstance(value, LazyRows):
            value.rows(ids)


def network(values: dict[str, Tensor], ids: Tensor, targets: Tensor) -> Tensor:
    """Return the log-likelihood of weights that are at hand, without Pyro's handlers."""
    x = embedding(ids, values["embedding.weight"], batch_dim=1)
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    layers = [
        LayerWeights(*(values[f"lstm.{name}_l{layer}"] for name in names))
        for layer in range(LAYERS)
    ]
    zeros = x.new_zeros(LAYERS, SEQUENCES, x.shape[-1])
    h, _ = recurrent("LSTM", x, (zeros, zeros), layers)
    logits = linear(h, values["head.weight"], values["head.bias"], batch_dim=1)
    fn = vrnn.distributions.Categorical(logits=logits.flatten(0, 1))
    return fn.log_prob(targets.flatten()).sum()


class Parts:
    """The parts of our step, to be timed one after the other, and those of the plain step."""

    def __init__(self, setting: Setting, hidden: int, scope: str, scale: float) -> None:
        self.data = batch(VOCABULARY, setting.device)
        self.model = WordModel(VOCABULARY, hidden).to(setting.device)
        self.guide = our_guide(self.model, scope, scale)
        loss = elbo_module(vrnn.infer.TraceExactKL_ELBO(), self.model, self.guide)
        self.ours = Trainer(loss, self.data, False)
        self.plain = Trainer(PlainModel(VOCABULARY, hidden).to(setting.device), self.data, False)
        layers = {name: getattr(self.model, name) for name in ("embedding", "lstm", "head")}
        self.priors = {
            name: layers[name.split(".")[0]].prior(name.split(".")[1]) for name in self.guide.sites
        }

    def draw(self) -> None:
        """Draw every weight, as the guide does in training."""
        self.drawn = poutine.trace(self.guide).get_trace(*self.data)
        self.values = {name: self.drawn.nodes[name]["value"] for name in self.guide.sites}
        force(self.values, self.data[0])

    def network_forward(self) -> None:
        """Run the network on weights that are at hand."""
        network(self.values, *self.data)

    def program_forward(self) -> None:
        """Run the Pyro program on them, likelihood included."""
        replayed = poutine.trace(poutine.replay(self.model, trace=self.drawn))
        site = replayed.get_trace(*self.data).nodes["obs"]
        self.log_likelihood = site["fn"].log_prob(site["value"]).sum()

    def backward(self) -> None:
        """Go back from the log-likelihood to the guide's parameters."""
        self.ours.optimizer.zero_grad(set_to_none=True)
        self.log_likelihood.neg().backward()

    def divergence(self) -> None:
        """Add the KL's gradient, of distributions that the draw has made."""
        sites = [(self.drawn.nodes[name]["fn"], prior) for name, prior in self.priors.items()]
        torch.stack([kl_divergence(q, p) for q, p in sites]).sum().backward()

    def plain_forward(self) -> None:
        """Run the plain network."""
        self.plain_loss = self.plain.loss(*self.data)

    def plain_backward(self) -> None:
        """Go back from the plain network's loss."""
        self.plain.optimizer.zero_grad(set_to_none=True)
        self.plain_loss.backward()


def profile(setting: Setting, hidden: int, scope: str, scale: float) -> dict[str, Any]:
    """
    Return the median seconds of the parts of a step, ours and the plain one's.

    "assembling" is what the Pyro program takes beyond the network: handlers, priors, reading of
    weights. "rest" is what the whole step takes beyond its parts.
    """
    parts = Parts(setting, hidden, scope, scale)
    programs: dict[str, Program] = {
        "drawing": parts.draw,
        "network forward": parts.network_forward,
        "program forward": parts.program_forward,
        "backward": parts.backward,
        "KL": parts.divergence,
        "optimiser": parts.ours.optimizer.step,
        "step": parts.ours.step,
        "plain forward": parts.plain_forward,
        "plain backward": parts.plain_backward,
        "plain optimiser": parts.plain.optimizer.step,
        "plain step": parts.plain.step,
    }
    longer = replace(setting, seconds=3 * setting.seconds)  # differences of parts need it
    seconds = in_turns(longer, *programs.values())
    found = {name: statistics.median(s) for name, s in zip(programs, seconds, strict=True)}
    found["assembling"] = found["program forward"] - found["network forward"]
    named = ("drawing", "program forward", "backward", "KL", "optimiser")
    found["rest"] = found["step"] - sum(found[name] for name in named)
    return {
        "what": f"{scope} scope, {'masks only' if scale == 0 else 'masks and noise'}",
        "shape": {"T": STEPS, "N": SEQUENCES, "H": hidden, "V": VOCABULARY},
        "seconds": found,
        "rounds": len(seconds[0]),
    }


def _sizes(setting: Setting) -> tuple[int, ...]:
    return SIZES[:1] if setting.quick else SIZES


PROFILES = (("batch", 0.01), ("sequence", 0.0), ("sequence", 0.01))


def profiles(setting: Setting) -> Iterator[tuple[str, Callable[[Setting], dict[str, Any]]]]:
    """Yield names of breakdowns and what measures them."""
    for hidden in _sizes(setting):
        for scope, scale in PROFILES:
            measure = partial(profile, hidden=hidden, scope=scope, scale=scale)
            yield f"profile | {scope} scale={scale} H={hidden}", measure


def cases(setting: Setting) -> Iterator[Case]:
    """Yield the rows."""

    def case(what: str, target: float | None, step: Step) -> Case:
        shape = {"T": STEPS, "N": SEQUENCES, "H": step.hidden, "V": VOCABULARY}
        return Case("step", what, shape, target, step.measure, REFERENCE)

    for hidden in (*_sizes(setting), *((1500,) if setting.large else ())):
        masks_target = 1.3 if hidden == 200 else 1.2
        for scope, scale, target in (
            ("batch", 0.01, 1.3),
            ("sequence", 0.0, masks_target),
            ("sequence", 0.01, None),
        ):
            text = f"{scope} scope, {'masks and noise' if scale else 'masks only'}"
            yield case(text, target, Step(hidden, scope, scale))
            if hidden == SIZES[0]:
                yield case(f"{text}, fused Adam", target, Step(hidden, scope, scale, fused=True))
        shape = {"T": STEPS, "N": SEQUENCES, "H": hidden, "V": VOCABULARY}
        measure = partial(_measure_product, hidden=hidden)
        yield Case(
            "step", "plain torch, its output layer by oneDNN", shape, None, measure, REFERENCE
        )
    usual = {"categorical": dist.Categorical}
    text = "batch scope, masks and noise, Pyro's"
    yield case(f"{text} Categorical", None, Step(**usual))
    yield case(f"{text} TraceMeanField_ELBO", None, Step(elbo=TraceMeanField_ELBO))
    for elbo, kind in ((Trace_ELBO, "sampled"), (TraceMeanField_ELBO, "mean-field")):
        what = f"explicit Pyro by hand: dense normal draws, {kind} KL"
        yield case(what, None, Step(elbo=elbo, by_hand=True, **usual))
