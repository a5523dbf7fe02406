"""Conjugate models whose posterior and evidence are known, with guides set to the posterior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from torch import Tensor

import pyro_vrnn as vrnn

TAU = 4.0


@dataclass
class Conjugate:
    """y ~ N(X w, 1/tau), w ~ N(0, I), with q the exact posterior."""

    model: Any
    guide: Any
    args: tuple[Tensor, Tensor]

    @property
    def evidence(self) -> Tensor:
        x, y = self.args
        x, y = x.double(), y.double()
        cov = x @ x.T + torch.eye(len(y), dtype=x.dtype) / TAU
        return dist.MultivariateNormal(torch.zeros_like(y), cov).log_prob(y)

    def posterior(self) -> tuple[Tensor, Tensor]:
        x, y = self.args
        precision = torch.eye(x.shape[1], dtype=x.dtype) + TAU * x.T @ x
        covariance = precision.inverse()
        return TAU * covariance @ x.T @ y, covariance


def data(num_weights: int, num_data: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(num_data, num_weights, generator=generator, dtype=torch.float64)
    return x, torch.randn(num_data, generator=generator, dtype=torch.float64)


def normal_weights(x: Tensor, y: Tensor | None = None) -> None:
    prior = dist.Normal(x.new_zeros(x.shape[1]), 1.0).to_event(1)
    w = pyro.sample("w", prior)
    with pyro.plate("data", len(x)):
        loc = pyro.deterministic("loc", x @ w, event_dim=0)
        pyro.sample("obs", dist.Normal(loc, TAU**-0.5), obs=y)


def log_normal_weight(x: Tensor, y: Tensor | None = None) -> None:
    w = pyro.sample("w", dist.LogNormal(x.new_zeros(1), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("obs", dist.Normal(x @ w.log(), TAU**-0.5), obs=y)


def one_matrix(x: Tensor, y: Tensor | None = None) -> None:
    record = vrnn.distributions.weight_site.WeightSite("linear")
    prior = dist.Normal(x.new_zeros(1, 1), 1.0).to_event(2)
    w = pyro.sample("w", prior, infer={"weight_site": record})
    with pyro.plate("data", len(x)):
        pyro.sample("obs", dist.Normal((x @ w).squeeze(-1), TAU**-0.5), obs=y)


def multivariate() -> Conjugate:
    guide = AutoMultivariateNormal(normal_weights)
    case = Conjugate(normal_weights, guide, data(3))
    guide(*case.args)
    mean, covariance = case.posterior()
    cholesky = torch.linalg.cholesky(covariance)
    guide.loc.data = mean
    guide.scale = cholesky.diagonal()
    guide.scale_tril = cholesky / cholesky.diagonal().unsqueeze(-1)
    return case


def constrained() -> Conjugate:
    guide = AutoNormal(log_normal_weight)
    case = Conjugate(log_normal_weight, guide, data(1))
    guide(*case.args)
    mean, covariance = case.posterior()
    guide.locs.w = mean
    guide.scales.w = covariance[0].sqrt()
    return case


def spike_and_slab() -> Conjugate:
    guide = vrnn.infer.AutoSpikeAndSlab(one_matrix, drop_prob=0.0, learn_scale=True)
    case = Conjugate(one_matrix, guide, data(1))
    guide(*case.args)
    mean, covariance = case.posterior()
    guide.locs.w = mean.reshape(1, 1)
    guide.scales.w = covariance.sqrt()
    return case


CASES = {
    "multivariate": multivariate,
    "constrained": constrained,
    "spike_and_slab": spike_and_slab,
}


@pytest.fixture(params=CASES)
def exact(request) -> Conjugate:
    return CASES[request.param]()


@pytest.fixture
def conjugate() -> Conjugate:
    return multivariate()
