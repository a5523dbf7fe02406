"""A run that is resumed equals the unbroken one, bit for bit, wherever it was cut."""

from __future__ import annotations

import os
import signal
from functools import partial

import pyro
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import pyro_vrnn as vrnn
from pyro_vrnn import baselines
from pyro_vrnn.infer import CheckpointFolder, fit, fit_loss

adam = partial(torch.optim.Adam, lr=0.02)
N, B, EPOCHS = 12, 4, 3  # 3 steps an epoch


def dataset():
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, generator=generator)
    return TensorDataset(draw(N, 5, 8), draw(N, 1))


def loader(own_generator=True):
    generator = torch.Generator().manual_seed(3) if own_generator else None
    return DataLoader(dataset(), batch_size=B, shuffle=True, generator=generator)


class Stateful:
    """Batches in an order of their own, which state_dict gives and load_state_dict takes."""

    def __init__(self):
        self.place, self.order = 0, torch.Generator().manual_seed(4)
        self.state = self.order.get_state()

    def __iter__(self):
        if self.place == 0:
            self.state = self.order.get_state()
        self.order.set_state(self.state)
        permutation = torch.randperm(N, generator=self.order).split(B)
        data = dataset().tensors
        while self.place < len(permutation):
            rows = permutation[self.place]
            self.place += 1
            yield tuple(t[rows] for t in data)
        self.place = 0

    def state_dict(self):
        state = self.state if self.place else self.order.get_state()
        return {"place": self.place, "state": state}

    def load_state_dict(self, state):
        self.place, self.state = state["place"], state["state"]
        self.order.set_state(self.state)


DATA = {
    "list": lambda: [tuple(t[k::3] for t in dataset().tensors) for k in range(3)],
    "loader": loader,
    "loader-of-the-global-generator": partial(loader, own_generator=False),
    "dataset": dataset,
    "stateful": Stateful,
}
datas = pytest.mark.parametrize("data", DATA.values(), ids=DATA)


class Killed(Exception):
    pass


class KillAt:
    """A callback that ends the run at a step, as a crash does: nothing is cleaned up."""

    every = "step"

    def __init__(self, step):
        self.left = step

    def __call__(self, result):
        self.left -= 1
        if self.left == 0:
            raise Killed


def pair(**options):
    pyro.clear_param_store()
    pyro.set_rng_seed(1)
    rnn = vrnn.nn.LSTM(8, 4)
    model = vrnn.models.SequenceRegression(rnn, 1, num_data=N, learn_tau=True)
    options = {"scope": "sequence", "learn_scale": True, **options}
    return model, vrnn.infer.AutoSpikeAndSlab(model, **options)


def run(data, folder=None, *, kill_at=None, seed=5, epochs=EPOCHS, **options):
    model, guide = pair()
    if isinstance(data, TensorDataset):
        options["batch_size"] = B
    if kill_at is not None:
        options["callbacks"] = [KillAt(kill_at)]
    defaults = dict(num_epochs=epochs, optimizer=adam, seed=seed, progress=False)
    result = fit(model, guide, data, checkpoint_dir=folder, **{**defaults, **options})
    state = {**model.state_dict(prefix="model."), **guide.state_dict(prefix="guide.")}
    return result, state


def resumed(make, folder, cuts, **options):
    """Run with a kill at each of ``cuts`` steps after the last checkpoint, then to the end."""
    for cut in cuts:
        with pytest.raises(Killed):
            run(make(), folder, kill_at=cut, checkpoint_every=1, **options)
    return run(make(), folder, checkpoint_every=1, **options)


def assert_same(found, expected):
    (result, state), (whole, whole_state) = found, expected
    assert result.loss == whole.loss
    assert result.kl == whole.kl
    assert result.gradient_norm == whole.gradient_norm
    assert result.epoch_loss == whole.epoch_loss
    assert result.validation == whole.validation
    assert state.keys() == whole_state.keys()
    assert all(torch.equal(state[name], whole_state[name]) for name in state)


@datas
@pytest.mark.parametrize("cuts", [(1,), (2,), (3,), (4,), (5, 1, 2)], ids=str)
def test_resume_at_any_step_is_the_unbroken_run(data, cuts, tmp_path):
    assert_same(resumed(data, tmp_path, cuts), run(data()))


OPTIONS = {
    "schedule-by-step": dict(
        scheduler=partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.8), schedule="step"
    ),
    "schedule-by-epoch": dict(
        scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    ),
    "accumulate": dict(accumulate=2, clip_norm=1.0),
    "momentum": dict(optimizer=partial(torch.optim.SGD, lr=1e-4, momentum=0.9)),
    "annealed": dict(kl_weight=lambda step: min(1.0, (step + 1) / 4)),
    "validation": dict(validation=DATA["list"](), validation_draws=3),
    "without-seed": dict(seed=None),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_options_survive(options, tmp_path):
    # Without a seed the generators are those of the caller, the same at the start of both.
    assert_same(resumed(loader, tmp_path, (2, 2), **options), run(loader(), **options))


def test_longer_run_goes_on(tmp_path):
    run(loader(), tmp_path, epochs=1)
    assert_same(run(loader(), tmp_path), run(loader()))


def test_a_finished_run_is_only_read(tmp_path):
    expected = run(loader(), tmp_path)
    again = run(loader(), tmp_path)
    assert_same(again, expected)
    assert again[0].resumed_from == [9]


def test_plain_losses_resume_too(tmp_path):
    def train(folder=None, kill_at=None):
        torch.manual_seed(2)
        network = baselines.SequenceNetwork(baselines.GRU(8, 4), torch.nn.Linear(4, 1))
        loss = baselines.GaussianLoss(network, num_data=N)
        options = {} if kill_at is None else {"callbacks": [KillAt(kill_at)]}
        result = fit_loss(
            loss, loader(), num_epochs=3, optimizer=adam, seed=1, checkpoint_dir=folder,
            checkpoint_every=None if folder is None else 2, progress=False, **options,
        )  # fmt: skip
        return result.loss, network.state_dict()

    with pytest.raises(Killed):
        train(tmp_path, kill_at=5)
    (loss, state), (whole, whole_state) = train(tmp_path), train()
    assert loss == whole
    assert all(torch.equal(state[name], whole_state[name]) for name in state)


def test_checkpoints_that_are_kept(tmp_path):
    run(loader(), tmp_path, kill_at=None, checkpoint_every=1, keep_last=2)
    assert CheckpointFolder(tmp_path).steps() == [8, 9]
    first = tmp_path / "first"
    with pytest.raises(Killed):
        run(loader(), first, kill_at=1)
    assert CheckpointFolder(first).steps() == [0]


def test_a_damaged_checkpoint_is_skipped(tmp_path):
    with pytest.raises(Killed):
        run(loader(), tmp_path, kill_at=6, checkpoint_every=1)
    path = tmp_path / "step-000000005" / "tensors.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=r"damaged ones: step 5 .*Step 4 is used instead"):
        found = run(loader(), tmp_path, checkpoint_every=1)
    assert_same(found, run(loader()))


class Stream(IterableDataset):
    def __iter__(self):
        yield from DATA["list"]()


def test_other_data_start_their_epoch_again(tmp_path):
    make = partial(DataLoader, Stream(), batch_size=None)
    with pytest.raises(Killed):
        run(make(), tmp_path, kill_at=5, checkpoint_every=1)
    with pytest.warns(UserWarning, match=r"got DataLoader: epoch 1 starts again"):
        result, _ = run(make(), tmp_path)
    assert len(result.loss) == 3 + 1 + 3 + 3  # a step of the second epoch was made twice


REFUSED = {
    "seed": (dict(seed=6), r"run like that of the checkpoints in .* \(seed 5\), got seed 6"),
    "accumulate": (dict(accumulate=3), r"\(accumulate 1\), got accumulate 3"),
    "no-resume": (dict(resume=False), r"an empty checkpoint_dir with resume=False, got .*\[0, 3"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_another_run_s_folder_is_refused(options, message, tmp_path):
    run(loader(), tmp_path, epochs=1)
    with pytest.raises(ValueError, match=message):
        run(loader(), tmp_path, **options)


def test_other_data_inside_an_epoch_are_refused(tmp_path):
    with pytest.raises(Killed):
        run(loader(), tmp_path, kill_at=5, checkpoint_every=1)
    with pytest.raises(ValueError, match=r"batches in an epoch 3\), got batches in an epoch 2"):
        run(DATA["list"]()[:2], tmp_path)


def test_other_data_between_epochs_are_said(tmp_path):
    run(DATA["list"](), tmp_path, epochs=1)
    with pytest.warns(UserWarning, match=r"Expected 3 batches in an epoch, as before, got 2"):
        result, _ = run(DATA["list"]()[:2], tmp_path, epochs=2)
    assert len(result.loss) == 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_ends_the_run_with_a_checkpoint(number, tmp_path, monkeypatch):
    class Send:
        every = "step"

        def __call__(self, result):
            if len(result.loss) == 4:
                os.kill(os.getpid(), number)

    class Terminated(BaseException):
        pass

    def terminate(*_):
        raise Terminated

    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, terminate)
    try:
        expected = KeyboardInterrupt if number == signal.SIGINT else Terminated
        with pytest.raises(expected):
            run(loader(), tmp_path, callbacks=[Send()])
        assert signal.getsignal(signal.SIGTERM) is terminate
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)
    assert CheckpointFolder(tmp_path).steps()[-1] == 4
    assert_same(run(loader(), tmp_path), run(loader()))
