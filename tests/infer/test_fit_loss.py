"""The training loop on a plain module that returns a loss."""

from __future__ import annotations

from functools import partial

import pyro
import pytest
import torch

from pyro_vrnn.infer import fit_loss

adam = partial(torch.optim.Adam, lr=0.02)


class Squares(torch.nn.Module):
    """A loss without Pyro: the mean square of a linear fit, with noise while it trains."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 1, dtype=torch.float64)
        torch.nn.init.constant_(self.layer.weight, 1.0)

    def forward(self, x, y):
        noise = 0.01 * torch.randn_like(x) if self.training else 0.0
        return (self.layer(x + noise) - y).square().mean()


def plain_batches():
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    return [(draw(4, 3), draw(4, 1)) for _ in range(3)]


def test_a_plain_loss_equals_a_loop_by_hand():
    loss, twin = Squares(), Squares()
    twin.load_state_dict(loss.state_dict())
    options = dict(num_epochs=2, optimizer=adam, clip_norm=0.1, seed=5, progress=False)
    result = fit_loss(loss, plain_batches(), **options)
    pyro.set_rng_seed(5)
    optimizer, losses = adam(twin.parameters()), []
    for x, y in plain_batches() * 2:
        optimizer.zero_grad()
        value = twin(x, y)
        value.backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.1)
        optimizer.step()
        losses.append(value.item())
    assert result.loss == losses
    assert result.epoch_loss == pytest.approx([sum(losses[:3]) / 3, sum(losses[3:]) / 3])
    assert torch.equal(loss.layer.weight, twin.layer.weight)
    assert result.kl == {}


def test_progress_of_a_plain_loss(capsys):
    fit_loss(Squares(), plain_batches(), num_epochs=2, optimizer=adam)
    shown = capsys.readouterr().err
    assert "training: 100%" in shown
    assert "loss=" in shown


PLAIN_ERRORS = {
    "no-scalar": (
        dict(loss=torch.nn.Linear(3, 2).double(), data=[(torch.zeros(4, 3).double(),)]),
        TypeError,
        r"a module that returns a scalar loss, .*GaussianLoss.*, got one that returns \(4, 2\)",
    ),
    "device": (dict(device="gpu"), ValueError, r"Expected a device that is here, got 'gpu'"),
    "function": (dict(loss=lambda x: x), TypeError, r"loss to be a torch.nn.Module, got function"),
    "epochs": (dict(num_epochs=0), ValueError, r"num_epochs to be a positive int, got 0"),
    "empty": (dict(data=[]), ValueError, r"got no batch in epoch 0"),
    "nan": (
        dict(data=[(torch.full((4, 3), float("nan")).double(), torch.zeros(4, 1).double())]),
        FloatingPointError,
        r"Expected a finite loss, got nan in epoch 0, batch 0",
    ),
}


@pytest.mark.parametrize(("changes", "error", "message"), PLAIN_ERRORS.values(), ids=PLAIN_ERRORS)
def test_errors_of_a_plain_loss(changes, error, message):
    given = dict(loss=Squares(), data=plain_batches(), num_epochs=1, optimizer=adam)
    with pytest.raises(error, match=message):
        fit_loss(**{**given, **changes})


def test_a_module_with_a_state_sees_each_batch_once():
    class Normalised(Squares):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(3, dtype=torch.float64)

        def forward(self, x, y):
            return super().forward(self.norm(x), y)

    loss = Normalised()
    fit_loss(loss, plain_batches(), num_epochs=2, optimizer=adam, progress=False)
    assert loss.norm.num_batches_tracked == 6
