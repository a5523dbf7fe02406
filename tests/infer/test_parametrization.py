"""loc inverted or not: one family of distributions, two algorithms."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import pyro_vrnn as vrnn

P = 0.25


def pair(**kwargs: Any) -> tuple[Any, Any, torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    model = vrnn.models.SequenceRegression(
        vrnn.nn.LSTM(9, 4, num_layers=2, dtype=torch.float64), 10, num_data=20
    )
    x, y = torch.randn(5, 6, 9).double(), torch.randn(5, 10).double()
    guide = vrnn.infer.AutoSpikeAndSlab(model, drop_prob=P, **kwargs)
    torch.manual_seed(4)
    guide(x, y)
    return model, guide, x, y


def parameters(guide: Any) -> dict[str, torch.Tensor]:
    return {name: p for name, p in guide.named_parameters() if name.startswith("locs")}


def gradients(scope: str, **kwargs: Any) -> tuple[Any, dict[str, torch.Tensor], float]:
    model, guide, x, y = pair(scope=scope, **kwargs)
    torch.manual_seed(5)
    loss = vrnn.infer.TraceExactKL_ELBO().differentiable_loss(model, guide, x, y)
    loss.backward()
    return guide, {name: p.grad for name, p in parameters(guide).items()}, loss.item()


@pytest.mark.parametrize("scale", [0.0, 0.01])
@pytest.mark.parametrize("scope", ["batch", "sequence"])
def test_one_distribution_and_the_gradient_of_the_other_variable(scope: str, scale: float) -> None:
    usual, of_usual, loss = gradients(scope, scale=scale)
    inverted, of_inverted, other = gradients(scope, scale=scale, parametrization="inverted")
    assert loss == pytest.approx(other, rel=1e-12)
    for name in usual.sites:
        ours, theirs = usual.distribution(name), inverted.distribution(name)
        torch.testing.assert_close(ours.loc, theirs.loc, rtol=1e-13, atol=1e-14)
    for name, gradient in of_usual.items():
        site = name.removeprefix("locs.").removesuffix("_unconstrained")
        keep = 1 - usual.sites[site].drop_prob
        assert keep == (1 if "bias" in site else 1 - P)
        torch.testing.assert_close(of_inverted[name], gradient / keep, rtol=1e-10, atol=1e-10)
        values = parameters(inverted)[name], keep * parameters(usual)[name]
        torch.testing.assert_close(*values, rtol=1e-13, atol=1e-14)


def test_the_start_keeps_the_mean() -> None:
    _, usual, *_ = pair()
    _, inverted, *_ = pair(parametrization="inverted")
    for name, mean in usual.mean().items():
        torch.testing.assert_close(inverted.mean()[name], mean, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(
    ("saved", "loaded"), [("inverted", "non-inverted"), ("non-inverted", "inverted")]
)
def test_a_state_of_the_other_one_is_refused(saved: str, loaded: str) -> None:
    _, first, *_ = pair(parametrization=saved)
    _, second, *_ = pair(parametrization=loaded)
    before = {name: p.clone() for name, p in parameters(second).items()}
    with pytest.raises(RuntimeError, match=f"parametrization {loaded} for .*, got {saved}"):
        second.load_state_dict(first.state_dict())
    assert all(torch.equal(p, before[name]) for name, p in parameters(second).items())
    _, third, *_ = pair(parametrization=saved)
    third.load_state_dict(first.state_dict())


def test_another_word_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected parametrization to be one of 'non-inverted'"):
        pair(parametrization="upside-down")
