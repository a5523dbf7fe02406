r"""
Is training with dropout and weight decay variational inference? Measured, with its conditions.

The gradient of the ELBO of a spike-and-slab guide is compared with that of a plain network under
the same masks, trained by squared error and weight decay, as the slab's scale :math:`\sigma` goes
to 0 (``docs/design/dropout-limit.md``):

- for one fixed noise the distance falls like :math:`\sigma`, for the mean over the noise and its
  negative like :math:`\sigma^2`, as long as all blocks are far from 0;
- the gradient of the KL of one block, against :math:`d = \|m / \sigma\|`, fails near d = 2;
- for blocks of one weight it fails at every scale, on average over a random start;
- with a sampled KL (``Trace_ELBO``) the limit is another one, decay of the blocks that were kept.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyro
import torch
from pyro.distributions import Normal
from pyro.infer import ELBO, Trace_ELBO
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_vrnn import baselines
from pyro_vrnn.baselines.recurrent import CELLS as PLAIN
from pyro_vrnn.distributions.spike_and_slab import SpikeAndSlab
from pyro_vrnn.infer.auto_drop_connect import AutoDropConnect
from pyro_vrnn.infer.auto_spike_and_slab import AutoSpikeAndSlab
from pyro_vrnn.infer.exact_kl_elbo import TraceExactKL_ELBO
from pyro_vrnn.models.regression import SequenceRegression
from pyro_vrnn.nn.recurrent import CELLS as OURS
from pyro_vrnn.ops.blocks import block_square_ratios, scale_blocks
from pyro_vrnn.ops.mutual_information import binary_entropy
from pyro_vrnn.runs import check_seed, machine, set_seed, versions
from pyro_vrnn.shapes import check_choice, check_positive_int

CELLS: dict[str, tuple[Any, Any]] = {name: (OURS[name], PLAIN[name]) for name in OURS}
Gradients = dict[str, Tensor]


@dataclass(frozen=True)
class DropoutLimitConfig:
    """
    What the measurement is run with.

    ``blocks`` is how many blocks of one weight, and of ``column`` weights, the mean error of the
    KL's gradient is taken over.
    """

    cell: str = "lstm"
    hidden_size: int = 32
    num_layers: int = 2
    num_sequences: int = 16
    num_steps: int = 12
    num_data: int = 400
    drop_prob: float = 0.25
    prior_scale: float = 0.7
    sigmas: tuple[float, ...] = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4)
    blocks: int = 20000
    column: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("cell", self.cell, tuple(CELLS))
        for name in ("hidden_size", "num_layers", "num_sequences", "num_steps", "blocks", "column"):
            check_positive_int(name, getattr(self, name))
        check_seed(self.seed)
        if len(self.sigmas) < 2 or min(self.sigmas) <= 0:
            raise ValueError(f"Expected at least two sigmas above 0, got {self.sigmas}.")


class HeldDraw(SpikeAndSlab):
    """A spike and slab whose draw is held: its masks and standard normal noise are given."""

    def __init__(self, q: SpikeAndSlab, mask: Tensor, noise: Tensor) -> None:
        super().__init__(q.loc, q.scale, q.drop_prob, q.block_shape)
        self.mask, self.noise = mask, noise

    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        """Return the held draw; ``sample_shape`` must be empty."""
        if sample_shape:
            raise NotImplementedError(f"Expected one draw, got sample shape {sample_shape}.")
        return scale_blocks(self.loc, self.mask, self.block_shape) + self.scale * self.noise


class Problem:
    """
    A Bayesian network and a plain one of the same means, one set of masks, and one noise.

    :ivar dict loc: site -> slab means m, leaves for gradients.
    :ivar dict masks: site -> the mask of each block.
    """

    def __init__(self, config: DropoutLimitConfig, *, outputs: int = 8) -> None:
        set_seed(config.seed)
        self.config = config
        sizes = (16, config.hidden_size, config.num_layers)
        bayesian, plain = CELLS[config.cell]
        s, n = config.prior_scale, config.num_data
        rnn = bayesian(*sizes, bidirectional=True, prior_scale=s, dtype=torch.float64)
        self.model = SequenceRegression(rnn, outputs, num_data=n, prior_scale=s)
        shape = (config.num_sequences, config.num_steps, 16)
        self.x = torch.randn(shape, dtype=torch.float64)
        self.y = torch.randn(config.num_sequences, outputs, dtype=torch.float64)
        self.guide = AutoSpikeAndSlab(self.model, drop_prob=config.drop_prob)
        self.guide(self.x, self.y)
        self.loc = {
            name: self.guide.distribution(name).loc.detach().clone().requires_grad_()
            for name in self.guide.sites
        }
        q = {name: self.distribution(name, 1.0) for name in self.loc}
        self.masks = {name: one.draw_factors(one.grid_shape) for name, one in q.items()}
        self.noise = {name: torch.randn_like(one.loc) for name, one in q.items()}
        drops: dict[str, Any] = {"drop_prob": config.drop_prob, "scope": "batch"}
        features = rnn.num_directions * config.hidden_size
        network = baselines.SequenceNetwork(
            plain(*sizes, bidirectional=True, dtype=torch.float64, **drops),
            baselines.Linear(features, outputs, dtype=torch.float64, **drops),
        )
        self.loss = baselines.GaussianLoss(network, num_data=n, prior_scale=s)
        network.load_state_dict({name: loc.detach() for name, loc in self.loc.items()})

    def distribution(self, name: str, sigma: float) -> SpikeAndSlab:
        """Return q of a site at this scale."""
        site = self.guide.sites[name]
        return SpikeAndSlab(self.loc[name], sigma, site.drop_prob, site.block_shape)

    def min_distance(self, sigma: float) -> float:
        """Return the least d of the blocks that can be dropped."""
        dropped = [name for name, site in self.guide.sites.items() if site.drop_prob > 0]
        return min(
            float(block_square_ratios(q.loc, q.scale, q.block_shape).min().sqrt().item())
            for q in (self.distribution(name, sigma) for name in dropped)
        )

    def svi_gradient(self, sigma: float, sign: float, elbo: ELBO) -> Gradients:
        """Return the gradient of minus the ELBO at the held masks and ``sign`` times the noise."""

        def guide(*args: Any) -> None:
            for name in self.loc:
                q = self.distribution(name, sigma)
                pyro.sample(name, HeldDraw(q, self.masks[name], sign * self.noise[name]))

        loss = elbo.differentiable_loss(self.model, guide, self.x, self.y)
        return dict(zip(self.loc, torch.autograd.grad(loss, list(self.loc.values())), strict=True))

    def dropout_gradient(self) -> Gradients:
        """Return the gradient of the plain network's loss with weight decay at the same masks."""
        masks = {
            name: mask.unsqueeze(0)
            for name, mask in self.masks.items()
            if self.guide.sites[name].drop_prob > 0
        }
        named = dict(self.loss.network.named_parameters())
        loss = self.loss(self.x, self.y, masks=masks)
        return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))

    def kept_decay(self) -> Gradients:
        """Return z m / s^2 - (1 - p) m / s^2: what a sampled KL's limit has more than dropout."""
        found = {}
        for name, loc in self.loc.items():
            site = self.guide.sites[name]
            kept = scale_blocks(loc.detach(), self.masks[name], site.block_shape)
            found[name] = (kept - (1 - site.drop_prob) * loc.detach()) / self.config.prior_scale**2
        return found


def distance(first: Gradients, second: Gradients) -> float:
    """Return the norm of the difference over that of the second."""
    difference = math.sqrt(sum(float((first[n] - second[n]).square().sum()) for n in second))
    return difference / math.sqrt(sum(float(g.square().sum()) for g in second.values()))


def slope(sigmas: Sequence[float], errors: Sequence[float]) -> float:
    """Return the slope of log error in log sigma, by least squares."""
    return float(np.polyfit(np.log(sigmas), np.log(errors), 1)[0])


def gradient_errors(problem: Problem) -> dict[str, Any]:
    """Measure the distance of the SVI gradient from that of dropout and weight decay."""
    sigmas = problem.config.sigmas
    plain = problem.dropout_gradient()
    sampled = {name: plain[name] + more for name, more in problem.kept_decay().items()}

    def errors(elbo: ELBO, target: Gradients, signs: Sequence[float]) -> list[float]:
        found = []
        for sigma in sigmas:
            parts = [problem.svi_gradient(sigma, sign, elbo) for sign in signs]
            mean = {name: torch.stack([part[name] for part in parts]).mean(0) for name in target}
            found.append(distance(mean, target))
        return found

    measured = {
        "fixed_noise": errors(TraceExactKL_ELBO(), plain, (1.0,)),
        "antithetic": errors(TraceExactKL_ELBO(), plain, (1.0, -1.0)),
        "sampled_kl_to_dropout": errors(Trace_ELBO(), plain, (1.0,)),
        "sampled_kl_to_kept_decay": errors(Trace_ELBO(), sampled, (1.0,)),
    }
    return {
        "sigma": list(sigmas),
        "min_distance": [problem.min_distance(sigma) for sigma in sigmas],
        "error": measured,
        "limits_apart": distance(sampled, plain),
        "slope": {name: slope(sigmas, values) for name, values in measured.items()},
    }


def kl_gradient_error(loc: Tensor, sigma: float, config: DropoutLimitConfig) -> Tensor:
    """
    Return the norm of the KL's gradient minus that of weight decay, for each block.

    :param loc: ``(n, K)``: K blocks of n weights.
    """
    loc = loc.detach().requires_grad_()
    q = SpikeAndSlab(loc, sigma, config.drop_prob, (loc.shape[0], 1))
    prior = Normal(torch.zeros_like(loc), config.prior_scale).to_event(2)
    (gradient,) = torch.autograd.grad(kl_divergence(q, prior), loc)
    decay = (1 - config.drop_prob) * loc.detach() / config.prior_scale**2
    return (gradient - decay).norm(dim=0)


def block_errors(config: DropoutLimitConfig, sigma: float = 0.01) -> dict[str, list[float]]:
    """Measure sigma times that error against d, with the bound of the derivation."""
    d = torch.logspace(-1, math.log10(14), 60, dtype=torch.float64)
    direction = torch.nn.functional.normalize(torch.randn(config.column, 1).double(), dim=0)
    error = kl_gradient_error(direction * d * sigma, sigma, config)
    bound = math.sqrt(math.pi * config.drop_prob * (1 - config.drop_prob) / 2) * (-(d**2) / 8).exp()
    return {"d": d.tolist(), "error": (sigma * error).tolist(), "bound": bound.tolist()}


def random_start_errors(config: DropoutLimitConfig, reach: float = 0.1) -> dict[str, Any]:
    """Measure the mean error over random blocks U(-reach, reach), of one weight and of a column."""
    sigmas = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4)
    found: dict[str, Any] = {"sigma": list(sigmas), "reach": reach}
    for name, size in (("single", 1), ("column", config.column)):
        loc = torch.empty(size, config.blocks, dtype=torch.float64).uniform_(-reach, reach)
        errors = [kl_gradient_error(loc, sigma, config) for sigma in sigmas]
        found[name] = {
            "mean": [float(e.mean()) for e in errors],
            "standard_error": [float(e.std() / math.sqrt(len(e))) for e in errors],
        }
    p = torch.tensor(config.drop_prob, dtype=torch.float64)
    found["single"]["limit"] = float(binary_entropy(p)) / reach
    return found


def run_dropout_limit(
    config: DropoutLimitConfig, *, on_part: Callable[[str], None] = lambda name: None
) -> dict[str, Any]:
    """
    Measure all of it, and return what JSON can hold.

    :param on_part: called with the name of each part before it starts.
    """
    started = time.perf_counter()
    on_part("gradients")
    problem = Problem(config)
    gradients = gradient_errors(problem)
    guides = {"columns": problem.guide, "single_weights": AutoDropConnect(problem.model)}
    near = {}
    for name, guide in guides.items():
        guide(problem.x, problem.y)
        near[name] = {site: one._asdict() for site, one in guide.near_spike().items()}
    on_part("one block")
    blocks = block_errors(config)
    on_part("random starts")
    starts = random_start_errors(config)
    return {
        "config": asdict(config),
        "gradients": gradients,
        "sites_near_spike": near,
        "block": blocks,
        "random_start": starts,
        "versions": versions(),
        "machine": machine(),
        "wall_time_seconds": time.perf_counter() - started,
    }
