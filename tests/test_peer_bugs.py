"""
Bugs found in public code for Bayesian or variational-dropout networks, one test for each.

Each docstring says the bug and the package that has (or had) it; the folders' own tests go deeper.
"""

from __future__ import annotations

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive, TraceMeanField_ELBO
from torch.distributions import kl_divergence

import pyro_vrnn as vrnn
from pyro_vrnn.ops.particles import take_rows
from tests.infer.cases import CELLS, always_slab, classifier, dropped, small
from tests.nn.cases import TWINS, flat, make_twins, parameters

Z = 4.26
D, H, N, T = 8, 5, 4, 6  # of tests.infer.cases.small
close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)
cells = pytest.mark.parametrize("cell", list(CELLS))
twins = pytest.mark.parametrize("cell", list(TWINS))
RECURRENT = ("rnn.weight_hh_l0", "rnn.weight_ih_l0")


def built(model, *args, **options):
    """Return a guide of the model that was called once; what is dropped lies far from the rest."""
    guide = vrnn.infer.AutoSpikeAndSlab(model, **{"drop_prob": 0.5, "scale": 0.01, **options})
    guide(*args)
    return guide


def run(model, guide, *args):
    """Return the guide's draws and what the model makes of them."""
    trace = poutine.trace(guide).get_trace(*args)
    output = poutine.replay(model, trace=trace)(*args)
    return {name: trace.nodes[name]["value"] for name in guide.sites}, output


def elbo_parts(model, guide, *args):
    elbo = vrnn.infer.TraceExactKL_ELBO()
    elbo(model, guide)(*args)
    return elbo.parts


@cells
@pytest.mark.parametrize("name", RECURRENT)
def test_columns_are_dropped_not_rows(cell, name):
    """Salesforce's weight_drop (variational=True) and SuperNNova mask rows: outputs, not inputs."""
    model, x, y = small(cell)
    guide = always_slab(built(model, x, y, gates="tied"))
    zero = dropped(guide, name, 40)  # (40, G*H, D)
    by_column = zero.all(1)
    assert torch.equal(zero.any(1), by_column)
    assert by_column.any()
    assert not by_column.all()


def test_a_dropped_column_hides_its_input():
    """The same bug, from outside: a dropped input unit is not heard, whatever its value."""
    model, x, y = small("lstm")
    guide = always_slab(built(model, x, y, gates="tied", scale=0.0))
    weights, _ = run(model, guide, x, y)
    silent = (weights["rnn.weight_ih_l0"] == 0).all(0)  # (D,)
    assert silent.any()
    assert not silent.all()
    held = poutine.condition(model, {k: 0.01 * w.detach() for k, w in weights.items()})
    close(held(torch.where(silent, x + 100, x)), held(x))
    assert not torch.allclose(held(torch.where(silent, x, x + 100)), held(x))


@cells
def test_one_draw_serves_all_time_steps(cell):
    """bayesian-torch and lightning-uq-box draw the weights anew at every time step."""
    model, x, y = small(cell)
    guide = built(model, x, y, scale=0.3)
    weights, loc = run(model, guide, x, y)
    twin = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}[cell]
    twin = twin(D, H, dtype=torch.float64)
    twin.load_state_dict({k[4:]: w for k, w in weights.items() if k.startswith("rnn.")})
    last = twin(x.transpose(0, 1))[0][-1]  # one weight, given to torch's own loop
    close(loc, last @ weights["head.weight"].T + weights["head.bias"])


@pytest.mark.parametrize("steps", [1, 12])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("num_data", [None, 40])
def test_the_kl_counts_once(steps, layers, num_data):
    """bayesian-torch adds the KL at every step, or twice."""
    rnn = vrnn.nn.LSTM(D, H, layers, dtype=torch.float64)
    model = vrnn.models.SequenceRegression(rnn, 1, num_data=num_data)
    x, y = torch.randn(N, steps, D, dtype=torch.float64), torch.zeros(N, 1, dtype=torch.float64)
    guide = built(model, x, y)
    expected = {
        name: kl_divergence(guide.distribution(name), site["fn"])
        for name, site in poutine.trace(model).get_trace(x, y).nodes.items()
        if name in guide.sites
    }
    assert len(expected) == 4 * layers + 2
    found = elbo_parts(model, guide, x, y).kl
    close(found, {name: kl.detach() for name, kl in expected.items()})


def test_the_kl_counts_once_whatever_the_windows():
    """The same bug by windows: a series cut in more minibatches has the same KL in each step."""
    series = torch.randn(60, dtype=torch.float64).cumsum(0)
    windows = series.unfold(0, 12, 6)
    model = vrnn.models.Forecaster(
        vrnn.nn.GRU(1, H, dtype=torch.float64), 2, num_data=len(windows), overlap=2.0
    )
    x, y = windows[:, :10, None], windows[:, 10:]
    guide = built(model, x, y)
    all_at_once, part = (elbo_parts(model, guide, x[:k], y[:k]).kl for k in (len(x), 2))
    close(part, all_at_once)


def test_the_likelihood_is_scaled_to_the_data_set():
    """edward2's notebook leaves N out: the KL drowns the data, accuracy 0.98 falls to 0.50."""
    model, x, y = small(num_data=N)
    larger, _, _ = small(num_data=1000 * N)
    guide, other = built(model, x, y, drop_prob=0.0), built(larger, x, y, drop_prob=0.0)
    other.load_state_dict(guide.state_dict())
    found = []
    for m, g in ((model, guide), (larger, other)):
        pyro.set_rng_seed(1)
        found.append(elbo_parts(m, g, x, y))
    small_set, large_set = found
    close(large_set.expected_log_likelihood, 1000 * small_set.expected_log_likelihood)
    close(large_set.kl, small_set.kl)


def test_the_prior_is_one_of_each_weight():
    """SuperNNova and sonnet form a mixture prior over a whole matrix or row, not per weight."""
    lstm = vrnn.nn.LSTM(D, H, dtype=torch.float64, prior_scale=0.5)
    trace = poutine.trace(lstm).get_trace(torch.zeros(2, 1, D, dtype=torch.float64))
    trace.compute_log_prob()
    for name in ("weight_hh_l0", "weight_ih_l0", "bias_hh_l0"):
        site = trace.nodes[name]
        expected = dist.Normal(0.0, torch.tensor(0.5).double()).log_prob(site["value"]).sum()
        close(site["log_prob_sum"], expected)


@cells
def test_sequences_have_masks_of_their_own(cell):
    """SuperNNova, AWD-LSTM and haste call one recurrent mask for the whole batch variational."""
    model, x, y = small(cell)
    same = x[:1].expand(N, T, D).contiguous()
    outputs = {}
    for scope in ("batch", "sequence"):
        guide = built(model, same, y, scope=scope, drop_prob={"weight_hh": 0.5, "weight_ih": 0.0})
        weights, outputs[scope] = run(model, guide, same, y)
    close(outputs["batch"], outputs["batch"][:1].expand(N, 1))
    assert (outputs["sequence"] - outputs["sequence"][:1]).abs().max() > 1e-6
    masks = weights["rnn.weight_hh_l0"].masked_weight(N).mask
    assert len(torch.unique(masks.flatten(1), dim=0)) > 1


@cells
@pytest.mark.parametrize("kind", ["weight_ih", "weight_hh"])
@pytest.mark.parametrize("layer", [0, 1])
def test_reverse_weights_are_dropped_too(cell, kind, layer):
    """fastai, PyTorch-NLP and SuperNNova forget the weights that end in `_reverse`."""
    model, ids, y = classifier(cell)
    guide = always_slab(built(model, ids, y))
    forward, reverse = (
        dropped(guide, f"rnn.{kind}_l{layer}{suffix}", 40) for suffix in ("", "_reverse")
    )
    assert reverse.any()
    assert not reverse.all()
    assert not torch.equal(forward, reverse)  # masks of its own


@cells
@pytest.mark.parametrize("scope", ["batch", "sequence"])
def test_a_forward_pass_leaves_the_parameters_alone(cell, scope):
    """Better_LSTM (issue 7) writes the dropped weights over the stored ones."""
    model, x, y = small(cell, learn_tau=True)
    guide = built(model, x, y, scope=scope)
    before = {k: v.clone() for m in (guide, model) for k, v in m.state_dict().items()}
    for _ in range(3):
        run(model, guide, x, y)
    Predictive(model, guide=guide, num_samples=3)(x)
    after = {k: v for m in (guide, model) for k, v in m.state_dict().items()}
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)


@cells
@pytest.mark.parametrize("scope", ["batch", "sequence"])
def test_the_gradient_reaches_the_dropped_matrix(cell, scope):
    """fastai2 (issue 427): the matrix behind the dropped one gets no gradient and never learns."""
    model, x, y = small(cell)
    guide = built(model, x, y, scope=scope)
    _, output = run(model, guide, x, y)
    output.square().sum().backward()
    gradients = {n: p.grad for n, p in guide.named_parameters()}
    for name in RECURRENT:
        gradient = gradients[f"locs.{name}_unconstrained"]
        assert gradient is not None
        assert gradient.abs().max() > 0


@pytest.mark.parametrize("learn_scale", [False, True], ids=["fixed", "learned"])
def test_no_two_parameters_on_one_storage(learn_scale):
    """blitz (issue 118): parameters that share a storage part at `.to("cuda")`, unseen."""
    model, x, y = small("lstm", learn_tau=True)
    guide = built(model, x, y, learn_scale=learn_scale)
    whole = torch.nn.ModuleDict({"model": model, "guide": guide})

    def places():
        state = whole.state_dict()
        return list(state), [v.untyped_storage().data_ptr() for v in state.values() if v.numel()]

    names, before = places()
    assert len(set(before)) == len(before)
    whole.float()
    assert places()[0] == names
    after = places()[1]
    assert len(set(after)) == len(after)
    numbers = [v for v in whole.state_dict().values() if v.is_floating_point()]
    assert {v.dtype for v in numbers} == {torch.float32}
    loss = TraceMeanField_ELBO()(model, guide)(x.float(), y.float())
    assert loss.dtype == torch.float32


@twins
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one-way", "two-way"])
def test_bias_may_be_left_out(cell, bidirectional):
    """blitz crashes with bias=False."""
    ours, theirs = make_twins(cell, D, H, bias=False, bidirectional=bidirectional)
    x = torch.randn(T, N, D, dtype=torch.float64)
    close(flat(poutine.condition(ours, parameters(theirs))(x)), flat(theirs(x)))
    guide = built(ours, x)
    assert not any("bias" in name for name in guide.sites)
    assert Predictive(ours, guide=guide, num_samples=2, return_sites=("weight_hh_l0",))(x)


def embedding_masks():
    """Return ids (N, T) of 9 word types, and which of them an Embedding gave as dropped."""
    table = vrnn.nn.Embedding(9, 8, dtype=torch.float64)
    ids = torch.randint(9, (60, 30))
    guide = vrnn.infer.AutoSpikeAndSlab(table, drop_prob=0.5, scale=0.01, scope="sequence")
    guide(ids, batch_dim=0)
    value = poutine.trace(always_slab(guide)).get_trace(ids, batch_dim=0).nodes["weight"]["value"]
    return ids, take_rows(value, ids, batch_dim=0).mean(-1) < 50


def test_an_embedding_drops_word_types():
    """AWD-LSTM's descendants drop tokens: one word is there and not there in one sentence."""
    ids, gone = embedding_masks()
    one_hot = torch.nn.functional.one_hot(ids, 9).bool()  # (N, T, V)
    occurs = one_hot.any(1)
    any_gone = (one_hot & gone.unsqueeze(-1)).any(1)
    any_kept = (one_hot & ~gone.unsqueeze(-1)).any(1)
    assert not (any_gone & any_kept).any()
    rate, count = any_gone[occurs].double().mean(), int(occurs.sum())
    assert abs(rate - 0.5) < Z * 0.5 / count**0.5


def test_an_embedding_drops_by_sequence():
    """AWD-LSTM's descendants share the dropped words in the batch."""
    ids, gone = embedding_masks()
    word = ids == ids[0, 0]
    found = {bool(gone[n][word[n]][0]) for n in range(len(ids)) if word[n].any()}
    assert found == {True, False}


@pytest.mark.parametrize("scope", ["batch", "sequence"])
def test_a_gru_s_outputs_stay_in_their_range(scope):
    """Keras (issue 20276): a GRU with recurrent dropout 0.5 explodes."""
    gru = vrnn.nn.GRU(D, H)
    x = 10 * torch.randn(200, N, D)
    guide = built(gru, x, scope=scope)
    with torch.no_grad():
        for parameter in guide.locs.parameters():
            parameter.mul_(30)
        _, (output, _) = run(gru, guide, x)
    assert output.abs().max() <= 1
    assert output.std() > 0.1


@cells
@pytest.mark.parametrize("scope", ["batch", "sequence"])
def test_masks_are_not_kept_between_calls(cell, scope):
    """TensorFlow (issue 29391): a layer's dropout mask is cached and not drawn again."""
    model, x, y = small(cell)
    guide = built(model, x, y, scope=scope, scale=0.0)
    with torch.no_grad():
        outputs = torch.stack([run(model, guide, x, y)[1].flatten() for _ in range(6)])
    assert len(torch.unique(outputs, dim=0)) == 6
    assert run(model, guide, x[:2], y[:2])[1].shape == (2, 1)  # another number of sequences


OPTIONS = {
    "plain": {},
    "no-bias": dict(bias=False),
    "batch-first": dict(batch_first=True),
    "two-way": dict(bidirectional=True),
    "two-layers": dict(num_layers=2),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("scope", ["batch", "sequence"])
@pytest.mark.parametrize("gates", ["tied", "untied"])
@pytest.mark.parametrize(("cell", "count"), [("lstm", 4), ("gru", 3)])
def test_only_gates_says_whether_gates_share_a_mask(cell, count, gates, scope, options):
    """TensorFlow (issue 35724): `implementation=` decides in silence whether gates share a mask."""
    rnn = CELLS[cell][0](D, H, **options)
    guide = always_slab(built(rnn, torch.randn(T, N, D), gates=gates, scope=scope))
    for name in (n for n in guide.sites if n.startswith("weight")):
        with vrnn.infer.function_draws():
            zero = dropped(guide, name, 20).unflatten(1, (count, H)).all(2)  # (20, G, D)
        assert torch.equal(zero, zero[:, :1].expand_as(zero)) == (gates == "tied")
