"""Windows that carry the state: order, the start of an epoch, and going on inside one."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import pyro_vrnn as vrnn
from pyro_vrnn import baselines
from pyro_vrnn.infer import CarriedState, fit, fit_loss, held_out

V, H, N, T, WINDOWS = 11, 5, 3, 4, 6
SGD = partial(torch.optim.SGD, lr=1e-4)


def windows() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return [
        tuple(torch.randint(V, (2, N, T), generator=generator).unbind(0)) for _ in range(WINDOWS)
    ]


def network(cell: Any = baselines.LSTM) -> baselines.LanguageNetwork:
    torch.manual_seed(1)
    parts = baselines.Embedding(V, H), cell(H, H, batch_first=True), baselines.Linear(H, V)
    return baselines.LanguageNetwork(*parts)


def pair() -> tuple[Any, Any]:
    torch.manual_seed(1)
    model = vrnn.models.LanguageModel(V, H, H, num_data=N * T * WINDOWS)
    return model, vrnn.infer.AutoSpikeAndSlab(model, scope="sequence")


def trained(folder: Path | None, bayesian: bool, **kwargs: Any) -> tuple[list[float], Any]:
    options = {"num_epochs": 2, "optimizer": SGD, "seed": 0, "progress": False, **kwargs}
    if folder is not None:
        options |= {"checkpoint_dir": folder, "checkpoint_every": 1}
    if bayesian:
        model, guide = pair()
        result = fit(model, guide, CarriedState(windows(), model), **options)
        return result.loss, guide.state_dict()
    loss = baselines.LanguageLoss(network(), num_data=N * T * WINDOWS)
    result = fit_loss(loss, CarriedState(windows(), loss), **options)
    return result.loss, loss.state_dict()


@pytest.mark.parametrize("cell", [baselines.LSTM, baselines.GRU])
def test_training_is_that_of_a_loop_written_out(cell: Any) -> None:
    loss = baselines.LanguageLoss(network(cell), num_data=100)
    result = fit_loss(
        loss, CarriedState(windows(), loss), num_epochs=2, optimizer=SGD, seed=0, progress=False
    )
    torch.manual_seed(0)
    other = baselines.LanguageLoss(network(cell), num_data=100)
    torch.manual_seed(0)
    optimizer, losses = SGD(other.parameters()), []
    for _ in range(2):
        other.network.reset_state()
        for x, y in windows():
            optimizer.zero_grad()
            value = other(x, y, state=other.network.state)
            value.backward()
            optimizer.step()
            losses.append(value.item())
    assert result.loss == losses


class StopAfter:
    """A callback that breaks a run off, as a crash does."""

    every = "step"

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, result: Any) -> None:
        if len(result.loss) == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("bayesian", [False, True], ids=["plain", "svi"])
@pytest.mark.parametrize("step", [1, 3, WINDOWS, WINDOWS + 2])
def test_a_run_goes_on_inside_an_epoch(tmp_path: Path, step: int, bayesian: bool) -> None:
    losses, state = trained(None, bayesian)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, bayesian, callbacks=[StopAfter(step)])
    resumed, again = trained(tmp_path, bayesian)
    assert resumed == losses
    assert all(torch.equal(value, again[name]) for name, value in state.items())


def test_an_epoch_starts_from_zeros_and_goes_on_from_the_last_state() -> None:
    model, _ = pair()
    batches = CarriedState(windows(), model)
    assert len(batches) == WINDOWS
    for _ in range(2):
        for number, batch in enumerate(batches):
            assert (batch["state"] is None) == (number == 0)
            assert number == 0 or batch["state"] is model.state
            model(**batch)


def test_an_epoch_that_was_left_early_starts_again() -> None:
    model, _ = pair()
    batches = CarriedState(windows(), model)
    iterator = iter(batches)
    for _ in range(2):
        model(**next(iterator))
    first = next(iter(batches))
    assert first["state"] is None
    assert torch.equal(first["x"], windows()[0][0])


def test_lengths_come_with_their_window() -> None:
    model, _ = pair()
    x, y = windows()[0]
    batch = next(iter(CarriedState([(x, y, torch.tensor([4, 2, 1]))], model)))
    assert batch["lengths"].tolist() == [4, 2, 1]


def test_a_window_before_the_last_one_was_run_is_refused() -> None:
    loss = baselines.LanguageLoss(network())
    with pytest.raises(ValueError, match="Expected the module to be run on window 0 before window"):
        fit_loss(
            loss, CarriedState(windows(), loss), num_epochs=1, optimizer=SGD, accumulate=2,
            progress=False,
        )  # fmt: skip


def test_a_run_that_broke_off_in_its_validation_does_not_train_the_epoch_again(
    tmp_path: Path,
) -> None:
    failures = [False, True]

    def score() -> dict[str, float]:
        if failures and failures.pop(0):
            raise RuntimeError("power cut")
        return {"held_out_loss": 1.0}

    def run(folder: Path) -> tuple[list[float], Any]:
        return trained(folder, bayesian=False, num_epochs=3, validation=score)

    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "a")
    losses, _ = run(tmp_path / "a")
    assert len(losses) == 3 * WINDOWS
    assert losses == run(tmp_path / "b")[0]


def test_scores_under_several_draws_are_refused() -> None:
    model, guide = pair()
    data = CarriedState(windows(), model)
    guide(*windows()[0])
    with pytest.raises(TypeError, match="Expected data in batches that do not depend on"):
        held_out(model, guide, data)
    with pytest.raises(TypeError, match=r"Expected validation in batches .* got CarriedState"):
        fit(model, guide, data, num_epochs=1, optimizer=SGD, validation=data, progress=False)


def test_what_keeps_no_state_is_refused() -> None:
    model, _ = pair()
    with pytest.raises(TypeError, match=r"Expected a module that keeps its last state.* got list"):
        CarriedState(model, windows())
