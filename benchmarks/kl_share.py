"""
The exact KL's share of a training step.

Guards against a KL that is computed by quadrature in every step, or that walks over the weights
more often than it must: it shall cost no more than 5 % of a step.

The step is one SVI step (TraceMeanField_ELBO, torch's Adam) of a word-level language model written
as a Pyro program: embedding, two LSTM layers, softmax over the vocabulary. The KL of all its sites,
forward and backward, is timed beside it, alternating. ``python benchmarks/kl_share.py``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import TraceMeanField_ELBO
from pyro.nn import PyroModule
from torch.distributions import kl_divergence

import pyro_vrnn as vrnn
from pyro_vrnn.files import write_json
from pyro_vrnn.runs import machine, set_seed, versions

RESULTS = Path(__file__).parent / "results"


class WordModel(PyroModule):
    """Next word at every step, by hand from the layers."""

    def __init__(self, vocabulary: int, hidden: int) -> None:
        super().__init__()
        self.embedding = vrnn.nn.Embedding(vocabulary, hidden)
        self.lstm = vrnn.nn.LSTM(hidden, hidden, 2)
        self.head = vrnn.nn.Linear(hidden, vocabulary)

    def forward(self, ids: torch.Tensor, targets: torch.Tensor) -> None:
        """Run the program on ids (T, N)."""
        h, _ = self.lstm(self.embedding(ids))
        logits = self.head(h, particles=0)
        with pyro.plate("tokens", ids.numel()):
            flat = logits.flatten(0, 1)
            pyro.sample("obs", dist.Categorical(logits=flat), obs=targets.flatten())


def timed(run) -> float:
    """Return the seconds one call takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def main() -> None:
    """Measure and write ``results/kl_share.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, default=200)
    parser.add_argument("--vocabulary", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--learn-scale", action="store_true")
    parser.add_argument("--name", default="kl_share")
    args = parser.parse_args()
    started = time.perf_counter()
    set_seed(args.seed)
    torch.set_num_threads(args.threads)
    model = WordModel(args.vocabulary, args.hidden)
    guide = vrnn.infer.AutoSpikeAndSlab(model, drop_prob=0.25, learn_scale=args.learn_scale)
    ids = torch.randint(args.vocabulary, (35, 20))
    loss_module = TraceMeanField_ELBO()(model, guide)
    loss_module(ids, ids)
    parameters = [p for p in loss_module.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    layers = {"embedding": model.embedding, "lstm": model.lstm, "head": model.head}
    priors = {name: layers[name.split(".")[0]].prior(name.split(".")[1]) for name in guide.sites}

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss_module(ids, ids).backward()
        optimizer.step()

    def divergence() -> float:
        optimizer.zero_grad(set_to_none=True)
        # A step has the distributions at hand: it sampled from them.
        sites = [(guide.distribution(k), prior) for k, prior in priors.items()]
        return timed(lambda: torch.stack([kl_divergence(q, p) for q, p in sites]).sum().backward())

    step(), divergence()
    pairs = [(timed(step), divergence()) for _ in range(args.runs)]
    steps, divergences = zip(*pairs, strict=True)
    blocks = sum(
        int(torch.Size(guide.distribution(name).grid_shape).numel()) for name in guide.sites
    )
    found = {
        "config": vars(args) | {"steps": 35, "sequences": 20, "layers": 2, "cell": "lstm"},
        "weights": sum(site.shape.numel() for site in guide.sites.values()),
        "blocks": blocks,
        "step_seconds_median": statistics.median(steps),
        "kl_seconds_median": statistics.median(divergences),
        "share_median": statistics.median(d / s for s, d in pairs),
        "wall_time_seconds": time.perf_counter() - started,
        "versions": versions(),
        "machine": machine(),
    }
    for name in ("weights", "blocks", "step_seconds_median", "kl_seconds_median", "share_median"):
        print(f"{name:>22}: {found[name]:.4g}")
    RESULTS.mkdir(exist_ok=True)
    print(write_json(RESULTS / f"{args.name}.json", found))


if __name__ == "__main__":
    main()
