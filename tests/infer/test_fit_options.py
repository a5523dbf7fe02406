"""What fit does besides steps: accumulation, schedules, validation, numbers that go wrong."""

from __future__ import annotations

import math
import threading
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch.distributions import Normal

import pyro_vrnn as vrnn
from pyro_vrnn.infer import CheckpointFolder, TraceExactKL_ELBO, fit, fit_loss, held_out
from tests.infer.cases import small

adam = partial(torch.optim.Adam, lr=0.02)
sgd = partial(torch.optim.SGD, lr=1e-5)
quiet = partial(fit, optimizer=adam, progress=False, seed=3)


def problem(**kwargs):
    pyro.set_rng_seed(1)
    model, x, y = small(learn_tau=True, num_data=12, **kwargs)
    return model, vrnn.infer.AutoSpikeAndSlab(model), [(x * k, y + k) for k in (1.0, 2.0, 3.0)]


def values(*modules):
    return {
        (k, n): p.detach().clone() for k, m in enumerate(modules) for n, p in m.named_parameters()
    }


def test_accumulated_gradients_are_the_mean_of_the_batches():
    model, guide, batches = problem()
    guide(*batches[0])
    start = {name: guide.distribution(name).loc.detach().clone() for name in guide.sites}
    result = fit(model, guide, batches, num_epochs=1, optimizer=sgd, accumulate=3, seed=3,
                 progress=False)  # fmt: skip
    model2, guide2, _ = problem()
    guide2(*batches[0])
    pyro.set_rng_seed(3)
    with vrnn.nn.own_params.module_local_params(model2, guide2):
        module = TraceExactKL_ELBO()(model2, guide2)
        module(*batches[0])  # the warm-up
        losses = [module(*batch) for batch in batches]
        torch.stack(losses).mean().backward()
    for name, value in guide2.locs.named_parameters():
        site = name.removesuffix("_unconstrained")
        step = start[site] - 1e-5 * value.grad
        torch.testing.assert_close(guide.distribution(site).loc.detach(), step)
    assert result.loss == pytest.approx([torch.stack(losses).mean().item()])
    assert result.steps_per_epoch == 1


def test_the_last_group_is_divided_by_its_own_size():
    model, guide, batches = problem()
    result = quiet(model, guide, batches, num_epochs=1, accumulate=2)
    assert (len(result.loss), result.steps_per_epoch) == (2, 2)


def test_learning_rates_are_recorded():
    model, guide, batches = problem()
    schedule = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5)
    by_step = quiet(model, guide, batches, num_epochs=1, scheduler=schedule, schedule="step")
    assert by_step.learning_rate == pytest.approx([0.02, 0.01, 0.005])
    model, guide, batches = problem()
    by_epoch = quiet(model, guide, batches, num_epochs=2, scheduler=schedule)
    assert by_epoch.learning_rate == pytest.approx([0.02] * 3 + [0.01] * 3)


def test_plateau_schedule_reads_the_score():
    model, guide, batches = problem()
    schedule = partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=0, threshold=1e9)
    result = quiet(
        model, guide, batches, num_epochs=3, scheduler=schedule, validation=batches,
        validation_draws=1,
    )  # fmt: skip
    assert result.learning_rate[-1] < 0.02


def test_gradient_norm_is_that_before_clipping():
    model, guide, batches = problem()
    free = quiet(model, guide, batches, num_epochs=1)
    model, guide, batches = problem()
    clipped = quiet(model, guide, batches, num_epochs=1, clip_norm=1e-3)
    assert clipped.gradient_norm[0] == pytest.approx(free.gradient_norm[0], rel=1e-6)
    assert free.gradient_norm[0] > 1


def test_kl_weight_anneals_the_loss_and_not_the_elbo():
    model, guide, batches = problem()
    weights = [0.0, 0.5, 1.0]
    result = quiet(model, guide, batches, num_epochs=1, kl_weight=weights.__getitem__)
    assert result.kl_weight == weights
    kl = [sum(step) for step in zip(*result.kl.values(), strict=True)]
    expected = result.expected_log_likelihood
    assert result.elbo == pytest.approx([e - k for e, k in zip(expected, kl, strict=True)])
    tempered = [w * k - e for w, e, k in zip(weights, expected, kl, strict=True)]
    assert result.loss == pytest.approx(tempered)
    model, guide, batches = problem()
    assert quiet(model, guide, batches, num_epochs=1).kl_weight == []


def test_held_out_scores_by_hand():
    """Every batch under the same draws; means of log densities, and logs of mean densities."""
    model, guide, batches = problem()
    guide(*batches[0])
    found = held_out(model, guide, batches[:2], num_draws=4, seed=7)
    each = []
    for draw in range(4):
        torch.manual_seed(7 * 1_000_003 + draw)
        with vrnn.infer.function_draws():
            weights = guide()
        held = poutine.condition(model, data=weights)
        densities = [Normal(held(x), model.tau.rsqrt()).log_prob(y).sum(-1) for x, y in batches[:2]]
        each.append(torch.cat(densities))
    each = torch.stack(each)
    assert found.num_observations == 8
    assert found.expected_log_likelihood == pytest.approx(each.mean().item(), rel=1e-9)
    nll = -(each.logsumexp(0) - math.log(4)).mean().item()
    assert found.nll == pytest.approx(nll, rel=1e-9)
    assert found.nll < -found.expected_log_likelihood  # Jensen


def test_more_held_out_sequences_than_training_data():
    model, guide, batches = problem()  # num_data = 12
    guide(*batches[0])
    x, y = (torch.cat([part] * 5) for part in batches[0])
    assert held_out(model, guide, [(x, y)], num_draws=2).num_observations == 20
    with pytest.raises(ValueError, match=r"a batch of at most num_data=12 sequences, got 20"):
        model(x, y)


def test_held_out_leaves_the_generators_alone():
    model, guide, batches = problem()
    guide(*batches[0])
    pyro.set_rng_seed(4)
    held_out(model, guide, batches, num_draws=2)
    after = torch.rand(())
    pyro.set_rng_seed(4)
    assert torch.rand(()) == after


@pytest.mark.parametrize("monitor", ["expected_log_likelihood", "nll"])
@pytest.mark.parametrize("with_folder", [False, True], ids=["memory", "folder"])
def test_the_best_epoch_is_kept(monitor, with_folder, tmp_path):
    model, guide, batches = problem()
    far = [(x, y + 100) for x, y in batches]  # training on one makes the other worse
    result = quiet(
        model, guide, far, num_epochs=6, validation=batches, monitor=monitor, patience=2,
        validation_draws=4, optimizer=partial(torch.optim.Adam, lr=0.3),
        checkpoint_dir=tmp_path if with_folder else None,
    )  # fmt: skip
    assert result.stopped == "patience"
    scores = result.validation[monitor]
    best = max(scores) if monitor != "nll" else min(scores)
    assert scores.index(best) == result.best_epoch == len(scores) - 3
    again = held_out(model, guide, batches, num_draws=4)
    assert getattr(again, monitor) == pytest.approx(best, rel=1e-9)
    if with_folder:
        assert CheckpointFolder(tmp_path).load_best().step == 3 * (result.best_epoch + 1)


def test_plain_losses_are_validated_in_evaluation():
    class Constant(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.value = torch.nn.Parameter(torch.tensor(1.0))

        def forward(self, target):
            assert not (self.training and target < 0)
            return (self.value - target) ** 2

    result = fit_loss(
        Constant(), [(torch.tensor(2.0),)], num_epochs=4, progress=False, patience=1,
        optimizer=partial(torch.optim.SGD, lr=0.4), validation=[(torch.tensor(-1.0),)],
    )  # fmt: skip
    assert result.validation["held_out_loss"][0] < result.validation["held_out_loss"][1]
    assert (result.best_epoch, result.stopped) == (0, "patience")


class Normalised(torch.nn.Module):
    """A Pyro model with a BatchNorm before its one weight."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(3)

    def forward(self, x, y=None):
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("obs", dist.Normal(self.norm(x) @ w, 1.0), obs=y)


def test_validation_leaves_buffers_and_modes_alone():
    model = Normalised()
    guide = vrnn.infer.AutoMeanFieldNormal(model)
    x, y = torch.randn(8, 3), torch.randn(8)
    quiet(model, guide, [(x, y)], num_epochs=3, validation=[(x + 100, y)])
    assert model.norm.running_mean.abs().max() < 1
    assert model.norm.training


def test_an_error_in_validation_says_so_and_loses_nothing(tmp_path):
    model, guide, batches = problem()
    wrong = [(batches[0][0][..., :3], batches[0][1])]
    with pytest.raises(ValueError, match=r"Expected x of shape") as caught:
        quiet(model, guide, batches, num_epochs=2, validation=wrong, checkpoint_dir=tmp_path)
    assert "In the validation after epoch 0." in caught.value.__notes__
    assert CheckpointFolder(tmp_path).steps()[-1] == 3
    again, again_guide, _ = problem()
    result = quiet(again, again_guide, batches, num_epochs=2, validation=batches, seed=3,
                   checkpoint_dir=tmp_path)  # fmt: skip
    assert len(result.loss) == 6


def test_plateau_schedule_of_a_score_to_maximise():
    model, guide, batches = problem()
    schedule = partial(
        torch.optim.lr_scheduler.ReduceLROnPlateau, mode="max", patience=0, factor=0.5
    )
    result = quiet(
        model, guide, batches, num_epochs=4, scheduler=schedule, validation=batches,
        optimizer=partial(torch.optim.Adam, lr=1e-3),
    )  # fmt: skip
    scores = result.validation["expected_log_likelihood"]
    assert scores == sorted(scores)  # it gets better in every epoch
    assert set(result.learning_rate) == {1e-3}


def test_patience_can_be_given_later(tmp_path):
    options = dict(validation=None, optimizer=partial(torch.optim.Adam, lr=0.3))
    model, guide, batches = problem()
    far = [(x, y + 100) for x, y in batches]
    options = {**options, "validation": batches, "checkpoint_dir": tmp_path}
    stopped = quiet(model, guide, far, num_epochs=8, patience=1, **options)
    assert stopped.stopped == "patience"
    model, guide, _ = problem()
    more = quiet(model, guide, far, num_epochs=8, patience=20, **options)
    assert (more.stopped, len(more.epoch_loss)) == ("epochs", 8)


def test_a_damaged_best_keeps_the_last(tmp_path):
    model, guide, batches = problem()
    quiet(model, guide, batches, num_epochs=2, validation=batches, checkpoint_dir=tmp_path)
    (tmp_path / "best.json").write_text("{}")
    model, guide, _ = problem()
    with pytest.warns(UserWarning, match=r"The last parameters are kept, not the best"):
        result = quiet(
            model, guide, batches, num_epochs=2, validation=batches, checkpoint_dir=tmp_path
        )
    assert result.stopped == "epochs"


def test_the_elbo_s_own_weight_comes_back():
    model, guide, batches = problem()
    elbo = TraceExactKL_ELBO()
    quiet(model, guide, batches, num_epochs=1, kl_weight=0.1, elbo=elbo)
    assert elbo.kl_weight == 1.0


def test_callbacks_return_a_truth_value():
    model, guide, batches = problem()
    result = quiet(model, guide, batches, num_epochs=4, callbacks=[lambda r: np.bool_(True)])
    assert (result.stopped, len(result.epoch_loss)) == ("callback", 1)
    with pytest.raises(
        TypeError, match=r"callbacks to return True \(stop\), False or None, got int"
    ):
        quiet(model, guide, batches, num_epochs=1, callbacks=[lambda r: 3])


@pytest.mark.parametrize(
    "make", [lambda b: iter(b), lambda b: torch.utils.data.TensorDataset(*b[0])]
)
def test_validation_comes_in_batches(make):
    model, guide, batches = problem()
    with pytest.raises(TypeError, match=r"Expected validation in batches that can be run through"):
        quiet(model, guide, batches, num_epochs=1, validation=make(batches))


def test_callbacks_see_the_history_and_can_stop():
    seen = []
    model, guide, batches = problem()
    result = quiet(
        model, guide, batches, num_epochs=9,
        callbacks=[lambda r: seen.append(len(r.loss)), lambda r: len(r.loss) >= 6],
    )  # fmt: skip
    assert seen == [3, 6]
    assert result.stopped == "callback"


def test_a_callback_can_stop_inside_an_epoch(tmp_path):
    class After:
        every = "step"

        def __call__(self, result):
            return len(result.loss) == 4

    model, guide, batches = problem()
    result = quiet(
        model, guide, batches, num_epochs=9, callbacks=[After()], checkpoint_dir=tmp_path
    )
    assert (len(result.loss), len(result.epoch_loss)) == (4, 1)
    assert result.stopped == "callback"
    assert CheckpointFolder(tmp_path).steps()[-1] == 4


def test_schedules_that_do_not_fit():
    model, guide, batches = problem()
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau
    with pytest.raises(ValueError, match=r"schedule='epoch' for ReduceLROnPlateau.*got 'step'"):
        quiet(model, guide, batches, num_epochs=1, scheduler=plateau, schedule="step")
    with pytest.raises(TypeError, match=r"schedule of torch.optim.lr_scheduler .*returns float"):
        quiet(model, guide, batches, num_epochs=1, scheduler=lambda _: 0.1)


def spoil(what, model, guide, batches):
    """Put a NaN into the data, a gradient or a parameter; return the batch where it shows."""
    nan = float("nan")
    if what == "data":
        batches[1][1][2, 0] = nan
    elif what == "gradient":
        guide(*batches[0])
        loc = guide.locs.rnn.weight_hh_l0_unconstrained
        count = iter(range(100))
        loc.register_hook(lambda g: g * nan if next(count) == 1 else g)
    else:
        guide(*batches[0])
        with torch.no_grad():
            guide.locs.head.weight_unconstrained[0, 3] = nan
    return 0 if what == "parameter" else 1


NAMED = {
    "data": r"in epoch 0, batch 1.*argument 1 of the batch \(nan at index \(2, 0\)\)",
    "gradient": r"gradient norm, got nan in epoch 0, batch 1.*guide.locs.rnn.weight_hh_l0",
    "parameter": r"in epoch 0, batch 0.*parameter guide.locs.head.weight_unconstrained",
}


@pytest.mark.parametrize("validated", [True, False], ids=["validation", "no-validation"])
@pytest.mark.parametrize("what", NAMED)
@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_numbers_that_go_wrong_are_named(what, validated, tmp_path):
    model, guide, batches = problem()
    where = spoil(what, model, guide, batches)
    before = values(model, guide) if what == "parameter" else None
    with (
        pyro.validation_enabled(validated),
        pytest.raises(FloatingPointError, match=NAMED[what]),
    ):
        quiet(model, guide, batches, num_epochs=2, checkpoint_dir=tmp_path, checkpoint_every=1)
    if what == "parameter":
        assert CheckpointFolder(tmp_path).steps() == []  # none is written of bad numbers
        assert before.keys() == values(model, guide).keys()
    else:
        assert CheckpointFolder(tmp_path).load_last().step == where


@pytest.mark.parametrize("validated", [True, False], ids=["validation", "no-validation"])
@pytest.mark.parametrize("what", ["data", "gradient"])
@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_bad_updates_can_be_left_out(what, validated):
    model, guide, batches = problem()
    spoil(what, model, guide, batches)
    with pyro.validation_enabled(validated):
        result = quiet(model, guide, batches, num_epochs=2, nonfinite="skip")
    assert result.skipped == ([[0, 1], [1, 1]] if what == "data" else [[0, 1]])
    assert len(result.loss) == 6 - len(result.skipped)
    assert all(p.isfinite().all() for p in values(model, guide).values())


@pytest.mark.filterwarnings("ignore:Encountered NaN")
@pytest.mark.parametrize("validated", [True, False], ids=["validation", "no-validation"])
def test_a_bad_first_batch_is_left_out_and_all_is_trained(validated, tmp_path):
    """The guide's parameters are made by the first batch that is good, and reach the optimiser."""
    model, guide, batches = problem()
    batches[0] = (batches[0][0] * float("nan"), batches[0][1])
    with pyro.validation_enabled(validated):
        result = quiet(
            model, guide, batches, num_epochs=2, nonfinite="skip", checkpoint_dir=tmp_path,
            checkpoint_every=1,
        )  # fmt: skip
    assert result.skipped == [[0, 0], [1, 0]]
    start = CheckpointFolder(tmp_path, keep_last=9)
    assert start.steps()[-1] == len(result.loss) == 4
    names = [n for n, _ in guide.named_parameters()]
    assert len(names) > 5
    again_model, again_guide, _ = problem()
    with pyro.validation_enabled(validated):
        again = quiet(
            again_model, again_guide, batches, num_epochs=2, nonfinite="skip",
            checkpoint_dir=tmp_path,
        )  # fmt: skip
    assert again.loss == result.loss
    moved = values(guide)
    _, fresh_guide, _ = problem()
    fresh_guide(*batches[1])
    assert all(not torch.equal(moved[0, n], values(fresh_guide)[0, n]) for n in names)


def test_no_good_batch():
    model, guide, batches = problem()
    bad = [(x * float("nan"), y) for x, y in batches]
    with pytest.raises(FloatingPointError, match=r"a batch of finite numbers in epoch 0, got none"):
        quiet(model, guide, bad, num_epochs=1, nonfinite="skip")


def test_bad_parameters_stop_all_the_same():
    model, guide, batches = problem()
    spoil("parameter", model, guide, batches)
    with pytest.raises(FloatingPointError, match=r"parameter guide.locs.head.weight"):
        quiet(model, guide, batches, num_epochs=1, nonfinite="skip")


def test_a_second_thread_waits():
    """Pyro's handlers belong to the process: two runs at once would mix their sites."""
    alone = []
    for seed in (1, 2):
        model, guide, batches = problem()
        alone.append(fit(model, guide, batches, num_epochs=3, optimizer=adam, seed=seed,
                         progress=False).loss)  # fmt: skip
    pairs = [problem() for _ in range(2)]
    together = [None, None]

    def work(k):
        model, guide, batches = pairs[k]
        together[k] = fit(
            model, guide, batches, num_epochs=3, optimizer=adam, seed=k + 1, progress=False
        ).loss

    threads = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_history_takes_eight_bytes_a_number():
    model, guide, batches = problem()
    result = quiet(model, guide, batches, num_epochs=1)
    columns = result.steps._columns
    assert {block.itemsize for blocks in columns.values() for block in blocks} == {8}
    assert set(columns) == {
        "loss", "expected_log_likelihood", "gradient_norm", "learning_rate", "kl_weight",
        *(f"kl.{name}" for name in guide.sites),
    }  # fmt: skip


def test_a_site_that_comes_later_has_no_kl_before():
    def model(x, flag):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        v = pyro.sample("v", dist.Normal(0.0, 1.0)) if flag else 0.0
        pyro.sample("obs", dist.Normal(w + v, 1.0), obs=x)

    class Program(torch.nn.Module):
        def __init__(self, run):
            super().__init__()
            self.run = run

        def forward(self, *args):
            return self.run(*args)

    def guide(x, flag):
        loc = pyro.param("loc", torch.tensor(0.5))
        for name in ("w", "v")[: 1 + flag]:
            pyro.sample(name, dist.Normal(loc, 0.5))

    x = torch.tensor(1.0)
    result = fit(
        Program(model), Program(guide), [(x, False), (x, True)], num_epochs=1,
        optimizer=lambda _: torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1),
        progress=False,
    )  # fmt: skip
    assert result.kl["v"][0] == 0
    assert result.kl["v"][1] > 0


ERRORS = {
    "schedule": (dict(schedule="batch"), r"schedule to be one of 'epoch', 'step', got 'batch'"),
    "monitor": (dict(monitor="elbo"), r"monitor to be one of 'expected_log_likelihood', 'nll'"),
    "nonfinite": (dict(nonfinite="hide"), r"nonfinite to be one of 'stop', 'skip', got 'hide'"),
    "accumulate": (dict(accumulate=0), r"accumulate to be a positive int, got 0"),
    "patience": (dict(patience=2), r"Expected validation beside patience=2, got None"),
    "every": (dict(checkpoint_every=5), r"checkpoint_dir beside checkpoint_every=5, got None"),
    "kl-weight": (dict(kl_weight=-1.0), r"kl_weight in step 0 to be a number of at least 0"),
    "batch-size": (dict(batch_size=3), r"no batch_size beside data that comes in batches \(list"),
}


@pytest.mark.parametrize(("options", "message"), ERRORS.values(), ids=ERRORS)
def test_errors(options, message):
    model, guide, batches = problem()
    with pytest.raises(ValueError, match=message):
        quiet(model, guide, batches, num_epochs=1, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(callbacks=print), r"callbacks to be a list of functions, got <built-in function p"),
        (dict(callbacks=[3]), r"callbacks to be a list of functions, got \[3\]"),
        (dict(num_epochs=2.0), r"num_epochs to be a positive int, got 2\.0"),
        (dict(num_epochs=None), r"num_epochs to be a positive int, got None"),
    ],
    ids=["one-callback", "no-function", "float", "none"],
)
def test_wrong_types(options, message):
    model, guide, batches = problem()
    with pytest.raises(TypeError, match=message):
        quiet(model, guide, batches, **{"num_epochs": 1, **options})


def test_integers_of_numpy(tmp_path):
    model, guide, batches = problem()
    result = quiet(
        model, guide, batches, num_epochs=np.int64(1), accumulate=np.int64(2),
        checkpoint_dir=tmp_path, checkpoint_every=np.int64(1),
    )  # fmt: skip
    assert len(result.loss) == 2


def test_a_dataset_needs_a_batch_size():
    model, guide, batches = problem()
    data = torch.utils.data.TensorDataset(*batches[0])
    with pytest.raises(ValueError, match=r"batch_size beside a dataset \(TensorDataset\), got N"):
        quiet(model, guide, data, num_epochs=1)


def test_kl_weight_is_ours_alone():
    model, guide, batches = problem()
    with pytest.raises(ValueError, match=r"kl_weight with TraceExactKL_ELBO only, got Trace_ELBO"):
        quiet(model, guide, batches, num_epochs=1, kl_weight=0.5, elbo=pyro.infer.Trace_ELBO())


def test_no_checkpoint_of_parameters_that_overflowed(tmp_path):
    model, guide, batches = problem()
    huge = partial(torch.optim.SGD, lr=1.7e308)
    with pytest.raises(FloatingPointError, match=r"finite parameters in step 1.*no checkpoint is"):
        quiet(model, guide, batches, num_epochs=1, optimizer=huge, checkpoint_dir=tmp_path,
              checkpoint_every=1)  # fmt: skip
    assert CheckpointFolder(tmp_path).steps() == [0]
