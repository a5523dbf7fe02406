"""Our categorical against Pyro's."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch

from pyro_vrnn.distributions import Categorical


def pair(shape=(5, 3, 7), **options):
    logits = (3 * torch.randn(shape, dtype=torch.float64, **options)).requires_grad_()
    return Categorical(logits=logits), dist.Categorical(logits=logits), logits


@pytest.mark.parametrize("shape", [(5, 3), (2, 5, 3), (3,), ()], ids=str)
def test_log_prob_and_gradient(shape, device):
    ours, theirs, logits = pair(device=device)
    value = torch.randint(7, shape, device=device)
    found, expected = ours.log_prob(value), theirs.log_prob(value)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    grads = [torch.autograd.grad(x.square().sum(), logits)[0] for x in (found, expected)]
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["logits", "probs", "entropy", "mode", "batch_shape", "mean"])
def test_properties(name, device):
    ours, theirs, _ = pair(device=device)
    found, expected = (getattr(q, name) for q in (ours, theirs))
    if name == "entropy":
        found, expected = found(), expected()
    if name == "batch_shape":
        assert found == expected
    else:
        torch.testing.assert_close(found, expected, equal_nan=True)


def test_samples_and_expand(device):
    ours, theirs, _ = pair(device=device)
    torch.manual_seed(0)
    first = ours.expand((4, 5, 3)).sample((2,))
    torch.manual_seed(0)
    assert torch.equal(first, theirs.expand((4, 5, 3)).sample((2,)))
    value = first[0]
    torch.testing.assert_close(
        ours.expand((4, 5, 3)).log_prob(value), theirs.expand((4, 5, 3)).log_prob(value)
    )
    assert torch.equal(ours.enumerate_support(expand=False), theirs.enumerate_support(expand=False))


def test_the_table_is_not_normalised_for_a_density():
    ours, _, _ = pair()
    ours.log_prob(torch.zeros(5, 3, dtype=torch.long))
    assert not {"logits", "probs"} & set(vars(ours))


def test_errors():
    ours = Categorical(logits=torch.zeros(5, 7), validate_args=True)
    with pytest.raises(ValueError, match="within the support"):
        ours.log_prob(torch.tensor([0, 1, 2, 3, 7]))
    with pytest.raises(ValueError, match=r"Expected logits of shape \(\*, V\), got tensor"):
        Categorical(logits=torch.tensor(0.0))
