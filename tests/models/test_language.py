"""The language model: its numbers, its state, its likelihood, and Pyro's tools on it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO

import pyro_vrnn as vrnn
from pyro_vrnn import baselines

V, E, H, N, T = 17, 5, 6, 4, 7
CELLS = ("lstm", "gru", "rnn")


@pytest.fixture(autouse=True)
def _on_device(device: torch.device) -> Iterator[None]:
    with device:
        yield


def build(cell: str = "lstm", layers: int = 2, **kwargs: Any) -> vrnn.models.LanguageModel:
    kwargs = {"dtype": torch.float64, **kwargs}
    return vrnn.models.LanguageModel(V, E, H, layers, cell=cell, **kwargs)


def words(*shape: int) -> torch.Tensor:
    return torch.randint(V, shape)


def weights_and_plain(
    model: vrnn.models.LanguageModel,
) -> tuple[dict[str, torch.Tensor], torch.nn.Module]:
    """A draw of the weights, and the plain network that holds it."""
    guide = vrnn.infer.AutoSpikeAndSlab(model, drop_prob=0.0)
    guide(words(N, T), words(N, T))
    values = guide.mean()
    return values, guide.to_torch(model, "mean")


def run_with(model: Any, values: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> Any:
    with torch.no_grad():
        return poutine.condition(model, data=values)(*args, **kwargs)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_logits_are_those_of_torch(cell: str, layers: int) -> None:
    torch.manual_seed(0)
    model, x = build(cell, layers), words(N, T)
    values, plain = weights_and_plain(model)
    assert (
        type(plain.rnn) is {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}[cell]
    )
    torch.testing.assert_close(run_with(model, values, x), plain(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("cell", CELLS)
def test_two_windows_with_the_state_are_one_text(cell: str) -> None:
    torch.manual_seed(0)
    model, x = build(cell), words(N, 2 * T)
    values, _ = weights_and_plain(model)
    whole = run_with(model, values, x)
    first = run_with(model, values, x[:, :T])
    kept = model.state
    second = run_with(model, values, x[:, T:], state=kept)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=0, atol=1e-10)
    parts = kept if isinstance(kept, tuple) else (kept,)
    assert not any(part.requires_grad for part in parts)
    model.reset_state()
    assert model.state is None
    torch.testing.assert_close(run_with(model, values, x[:, :T]), first, rtol=0, atol=0)


def test_the_state_in_training_has_no_graph() -> None:
    torch.manual_seed(0)
    model, x = build(), words(N, T)
    guide = vrnn.infer.AutoSpikeAndSlab(model)
    guide(x, x)
    loss = vrnn.infer.TraceExactKL_ELBO().differentiable_loss(model, guide, x, x)
    assert loss.requires_grad
    assert not any(part.requires_grad for part in model.state)


def test_a_call_without_state_starts_from_zeros_whatever_was_called_before() -> None:
    torch.manual_seed(0)
    model, x = build(), words(N, T)
    values, _ = weights_and_plain(model)
    first = run_with(model, values, x)
    torch.testing.assert_close(run_with(model, values, x), first, rtol=0, atol=0)


def test_log_likelihood_counts_every_target_once() -> None:
    torch.manual_seed(0)
    model, x, y = build(), words(N, T), words(N, T)
    values, plain = weights_and_plain(model)
    conditioned = poutine.condition(model, data=values)
    site = poutine.trace(conditioned).get_trace(x, y).nodes["obs"]
    log_prob = site["fn"].log_prob(site["value"])
    assert log_prob.shape == (N, T)
    expected = plain(x).log_softmax(-1).gather(-1, y.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(log_prob, expected, rtol=0, atol=1e-10)


def test_lengths_hide_targets_and_keep_the_state_after_the_last_valid_step() -> None:
    torch.manual_seed(0)
    model, x, y = build(), words(N, T), words(N, T)
    lengths = torch.tensor([T, 1, 4, 2])
    values, _ = weights_and_plain(model)
    conditioned = poutine.condition(model, data=values)
    trace = poutine.trace(conditioned).get_trace(x, y, lengths)
    trace.compute_log_prob()
    total = torch.zeros((), dtype=torch.float64)
    last = model.state
    for n, length in enumerate(lengths.tolist()):
        alone = poutine.trace(conditioned).get_trace(x[n : n + 1, :length], y[n : n + 1, :length])
        alone.compute_log_prob()
        total += alone.nodes["obs"]["log_prob_sum"]
        for mine, its in zip(last, model.state, strict=True):
            torch.testing.assert_close(mine[:, n], its[:, 0], rtol=0, atol=1e-10)
    torch.testing.assert_close(trace.nodes["obs"]["log_prob_sum"], total, rtol=0, atol=1e-10)


@pytest.mark.parametrize("ragged", [False, True], ids=["whole", "lengths"])
def test_a_batch_counts_as_its_share_of_the_tokens(ragged: bool) -> None:
    torch.manual_seed(0)
    model, x, y = build(num_data=1000), words(N, T), words(N, T)
    lengths = torch.tensor([T, 1, 4, 2]) if ragged else None
    trace = poutine.trace(model).get_trace(x, y, lengths)
    trace.compute_log_prob()
    site = trace.nodes["obs"]
    each = site["fn"].log_prob(y)
    count = N * T
    if lengths is not None:
        each = each[torch.arange(T) < lengths.unsqueeze(-1)]
        count = int(lengths.sum())
    expected = 1000 / count * each.sum()
    torch.testing.assert_close(site["log_prob_sum"], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("scope", ["batch", "sequence"])
def test_without_noise_and_dropping_the_gradient_is_that_of_plain_training(scope: str) -> None:
    torch.manual_seed(0)
    model, x, y = build(num_data=500, prior_scale=0.7), words(N, T), words(N, T)
    guide = vrnn.infer.AutoSpikeAndSlab(model, drop_prob=0.0, scale=0, scope=scope)
    guide(x, y)
    network = guide.to_torch(model, "mean")
    loss = baselines.LanguageLoss(network, num_data=500, prior_scale=0.7)
    loss(x, y).backward()
    elbo = vrnn.infer.TraceExactKL_ELBO()
    elbo.differentiable_loss(model, guide, x, y).backward()
    theirs = {name: p.grad for name, p in network.named_parameters()}
    for name in guide.sites:
        part, _, last = name.partition(".")
        mine = getattr(getattr(guide.locs, part), f"{last}_unconstrained", None)
        mine = getattr(getattr(guide.locs, part), last) if mine is None else mine
        torch.testing.assert_close(mine.grad, theirs[name], rtol=0, atol=1e-9)


def test_each_sequence_has_masks_of_its_own_word_types_go_together() -> None:
    torch.manual_seed(0)
    model = build(num_data=500)
    x = torch.tensor([[1, 2, 1, 3, 1], [1, 2, 1, 3, 1], [4, 4, 4, 4, 4]])
    guide = vrnn.infer.AutoSpikeAndSlab(model, drop_prob=0.5, scale=0, scope="sequence")
    guide(x, x)
    trace = poutine.trace(guide).get_trace(x, x)
    with torch.no_grad():
        logits = poutine.replay(model, trace=trace)(x, x)
        rows = trace.nodes["embedding.weight"]["value"].rows(x, 0)
        dense = {}
        for name, site in guide.sites.items():
            value = trace.nodes[name]["value"]
            if site.scope == "sequence" and name != "embedding.weight":
                dense[name] = value.masked_weight(len(x)).dense()
            else:
                dense[name] = None if name == "embedding.weight" else value
        assert torch.equal(rows[:, 0], rows[:, 2])  # one word, one sequence
        kept = rows.abs().sum(-1) > 0
        assert not kept.all()
        assert kept.any()
        for n in range(len(x)):
            table = torch.zeros(V, E, dtype=torch.float64)
            table[x[n]] = rows[n]
            own = {
                name: (table if value is None else value[n] if value.dim() == 3 else value)
                for name, value in dense.items()
            }
            alone = run_with(model, own, x[n : n + 1])
            torch.testing.assert_close(logits[n : n + 1], alone, rtol=0, atol=1e-10)


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_predictive_gives_function_draws(cell: str, parallel: bool) -> None:
    torch.manual_seed(0)
    model, x, y = build(cell), words(N, T), words(N, T)
    guide = vrnn.infer.AutoSpikeAndSlab(model, scope="sequence")
    guide(x, y)
    predictive = Predictive(model, guide=guide, num_samples=N, parallel=parallel)
    draws = predictive(x)
    assert draws["obs"].shape == (N, N, T)
    assert draws["obs"].max() < V
    assert draws["rnn.weight_hh_l0"].shape[-2:] == (model.rnn._weight_shapes["weight_hh_l0"])


@pytest.mark.parametrize("elbo", [TraceMeanField_ELBO, vrnn.infer.TraceExactKL_ELBO])
def test_particles_at_once_are_those_one_by_one(elbo: Any) -> None:
    torch.manual_seed(0)
    model, x, y = build(), words(N, T), words(N, T)
    guide = vrnn.infer.AutoSpikeAndSlab(model, drop_prob=0.0, scale=1e-9)
    guide(x, y)
    start = (torch.randn(2, N, H).double(), torch.randn(2, N, H).double())
    losses = [
        elbo(num_particles=N, vectorize_particles=at_once).loss(model, guide, x, y, state=start)
        for at_once in (False, True)
    ]
    # Draws differ by 1e-9 only.
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("at_once", [False, True])
def test_pyros_own_loop_trains_it(at_once: bool) -> None:
    torch.manual_seed(0)
    model, x, y = build(dtype=torch.float32), words(N, T), words(N, T)
    guide = vrnn.infer.AutoSpikeAndSlab(model)
    elbo = Trace_ELBO(num_particles=2, vectorize_particles=at_once, max_plate_nesting=2)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), elbo)
    assert all(math.isfinite(svi.step(x, y, state=state)) for state in (None, None))


def test_every_particle_starts_from_the_state_that_is_given() -> None:
    torch.manual_seed(0)
    model, x, y = build(), words(N, T), words(N, T)
    guide = vrnn.infer.AutoSpikeAndSlab(model, drop_prob=0.0, scale=0)
    guide(x, y)
    start = (torch.randn(2, N, H).double(), torch.randn(2, N, H).double())
    one = vrnn.infer.TraceExactKL_ELBO().loss(model, guide, x, y, state=start)
    three = vrnn.infer.TraceExactKL_ELBO(num_particles=3).loss(model, guide, x, y, state=start)
    assert one == pytest.approx(three, rel=1e-12)


def test_tied_weights_are_one_site_of_columns() -> None:
    model = vrnn.models.LanguageModel(V, H, H, tie_weights=True)
    x = words(N, T)
    guide = vrnn.infer.AutoSpikeAndSlab(model, drop_prob=0.5)
    guide(x, x)
    assert "head.weight" not in guide.sites
    assert guide.sites["embedding.weight"].block_shape == (V, 1)
    plain = guide.to_torch(model, "sample")
    assert plain.head.weight is plain.embedding.weight


def test_tied_weights_have_one_mask_a_sequence_for_both_uses() -> None:
    torch.manual_seed(0)
    model = vrnn.models.LanguageModel(V, H, H, tie_weights=True, dtype=torch.float64)
    x = words(N, T)
    guide = vrnn.infer.AutoSpikeAndSlab(model, drop_prob=0.5, scope="sequence")
    guide(x, x)
    trace = poutine.trace(guide).get_trace(x, x)
    logits = poutine.replay(model, trace=trace)(x, x)
    logits.sum().backward()
    table = trace.nodes["embedding.weight"]["value"].masked_weight(N).dense()
    for n in range(N):
        own = {
            name: table[n] if name == "embedding.weight" else trace.nodes[name]["value"]
            for name in guide.sites
        }
        for name, value in own.items():
            if hasattr(value, "masked_weight"):
                own[name] = value.masked_weight(N).dense()[n]
        alone = run_with(model, own, x[n : n + 1])
        torch.testing.assert_close(logits[n : n + 1], alone, rtol=0, atol=1e-10)
    assert guide.locs.embedding.weight_unconstrained.grad.abs().sum() > 0


def test_it_learns() -> None:
    pyro.set_rng_seed(0)
    # The next word is the last one plus one.
    x = (torch.arange(T) + torch.arange(8).unsqueeze(-1)) % V
    y = (x + 1) % V
    model = vrnn.models.LanguageModel(V, 16, 16, num_data=1000)
    guide = vrnn.infer.AutoSpikeAndSlab(model, drop_prob=0.1, scope="sequence")
    vrnn.infer.fit(
        model, guide, [(x, y)] * 50, num_epochs=4, seed=0, progress=False,
        optimizer=lambda p: torch.optim.Adam(p, lr=0.02),
    )  # fmt: skip
    logits = guide.to_torch(model, "mean")(x)
    nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten()).item()
    assert nll < 0.2 * math.log(V)


def test_held_out_counts_what_lengths_leave() -> None:
    torch.manual_seed(0)
    model, x, y = build(), words(N, T), words(N, T)
    guide = vrnn.infer.AutoSpikeAndSlab(model)
    guide(x, y)
    lengths = torch.tensor([T, 1, 4, 2])
    scores = vrnn.infer.held_out(model, guide, [(x, y, lengths)], num_draws=2)
    assert scores.num_observations == int(lengths.sum())


def test_arviz_has_the_log_likelihood_of_every_word() -> None:
    torch.manual_seed(0)
    model, x, y = build(), words(N, T), words(N, T)
    guide = vrnn.infer.AutoSpikeAndSlab(model)
    guide(x, y)
    data = vrnn.from_pyro_svi(
        model, guide, model_args=(x, y), num_samples=3, posterior=["head.bias"]
    )
    assert data.log_likelihood["obs"].dims == ("chain", "draw", "sequence", "time")
    assert data.log_likelihood["obs"].shape == (1, 3, N, T)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"cell": "tcn"}, "Expected cell to be one of 'lstm', 'gru', 'rnn', got 'tcn'."),
        ({"tie_weights": True}, "Expected embedding_dim equal to hidden_size"),
        ({"prior_scale": {"body": 1.0}}, "Expected the names in prior_scale to be among"),
        ({"num_data": 0}, "Expected num_data to be a positive int, got 0."),
    ],
)
def test_arguments_that_are_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vrnn.models.LanguageModel(V, E, H, **kwargs)


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (torch.zeros(2, 3), None, TypeError, "Expected x of dtype int64 or int32"),
        (torch.zeros(2, 0).long(), None, ValueError, "at least one sequence and one step"),
        (torch.zeros(3).long(), None, ValueError, r"Expected x of shape \(N, T\), got \(3,\)"),
        (torch.full((2, 3), V), None, ValueError, f"Expected ids in 0..{V - 1}"),
        (torch.zeros(2, 3).long(), torch.zeros(3, 2).long(), ValueError, "Expected y of shape"),
        (torch.zeros(2, 3).long(), torch.zeros(2, 3), TypeError, "Expected y of dtype int64"),
        (torch.zeros(2, 3).long(), torch.full((2, 3), V), ValueError, f"y in 0..{V - 1}"),
        (torch.zeros(2, 3).long(), torch.full((2, 3), -1), ValueError, f"y in 0..{V - 1}"),
    ],
)
def test_data_that_are_refused(x: Any, y: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build()(x, y)


def test_a_batch_larger_than_the_data_is_refused() -> None:
    x = words(2, 3)
    with pytest.raises(ValueError, match="Expected a batch of at most num_data=5 target tokens"):
        build(num_data=5)(x, x)
    build(num_data=5)(x)  # a prediction


def test_a_state_of_another_batch_is_refused() -> None:
    model, x = build(), words(N, T)
    model(x)
    with pytest.raises(ValueError, match="Expected h_0 of shape"):
        model(x[:2], state=model.state)


@pytest.mark.parametrize("scale", [0.01, 0.0])
def test_predict_gives_one_mixture_by_every_strategy(scale: float) -> None:
    torch.manual_seed(0)
    model, x = build(), words(N, T)
    guide = vrnn.infer.AutoSpikeAndSlab(model, scale=scale, scope="sequence")
    guide(x, x)
    strategies = ("loop", "batched") if scale else ("loop", "batched", "folded")
    found = [
        vrnn.infer.predict(model, guide, x, num_samples=6, strategy=s, seed=1, progress=False)
        for s in strategies
    ]
    assert found[0].probs.shape == (N, T, V)
    for other in found[1:]:
        torch.testing.assert_close(other.probs, found[0].probs, rtol=0, atol=1e-10)


def test_pyro_sees_two_plates_and_every_weight_outside() -> None:
    model, x = build(), words(N, T)
    relations = pyro.infer.inspect.get_model_relations(model, (x, x))
    assert relations["observed"] == ["obs"]
    assert relations["plate_sample"] == {"data": ["obs"], "time": ["obs"]}
    assert set(relations["sample_sample"]["obs"]) >= {"embedding.weight", "head.bias"}


@pytest.mark.parametrize("door", ["predict", "held_out", "anatomy", "export", "score"])
def test_what_looks_at_a_model_leaves_its_state(door: str) -> None:
    torch.manual_seed(0)
    model, x, y = build(), words(N, T), words(N, T)
    guide = vrnn.infer.AutoSpikeAndSlab(model)
    guide(x, y)
    before = model.state
    doors = {
        "predict": lambda: vrnn.infer.predict(model, guide, x, num_samples=3, progress=False),
        "held_out": lambda: vrnn.infer.held_out(model, guide, [(x, y)], num_draws=2),
        "anatomy": lambda: vrnn.diagnostics.elbo_anatomy(
            model, guide, model_args=(x, y), num_samples=2
        ),
        "export": lambda: vrnn.from_pyro_svi(model, guide, model_args=(x, y), num_samples=2),
        "score": lambda: vrnn.infer.score_language(
            model, guide, [(x, y)], num_samples=2, progress=False
        ),
    }
    doors[door]()
    assert model.state is before
