"""SequenceClassification: its values and density by hand, Pyro's tools, and what it refuses."""

from __future__ import annotations

from functools import partial

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal

import pyro_vrnn as vrnn
from tests.models.cases import CELLS, cells, classification, modes

TORCH = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}
C = 4
double = {"dtype": torch.float64}
close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)
scopes = pytest.mark.parametrize("scope", ["batch", "sequence"])


def parts(cell="lstm", **kwargs):
    """Return a model of H = 5 on D = 8 inputs, its weights, and plain torch on x and lengths."""
    model = vrnn.models.SequenceClassification(CELLS[cell](8, 5, **double), C, **kwargs)
    rnn, head = TORCH[cell](8, 5, **double), torch.nn.Linear(5, C, **double)

    def plain(x, lengths):
        states = [rnn(row[:t].unsqueeze(1))[1] for row, t in zip(x, lengths, strict=True)]
        last = [(s[0] if isinstance(s, tuple) else s)[-1, 0] for s in states]
        return head(torch.stack(last))

    named = [("rnn.", rnn), ("head.", head)]
    weights = {prefix + k: p for prefix, m in named for k, p in m.named_parameters()}
    return model, weights, plain


def batch(n=6):
    return torch.randn(n, 7, 8, **double), torch.arange(n) % C


def guided(model, x, y, **options):
    """Return a guide of the model, built; its masks are dropped and its noise is seen."""
    guide = vrnn.infer.AutoSpikeAndSlab(model, drop_prob=0.4, scale=0.1, **options)
    guide(x, y)
    return guide


def negative_log_prob(model, weights, *args, **kwargs):
    trace = poutine.trace(poutine.condition(model, weights)).get_trace(*args, **kwargs)
    trace.compute_log_prob()
    return -trace.nodes["obs"]["log_prob_sum"]


@cells
@pytest.mark.parametrize("lengths", [None, [7, 2, 5, 1, 7, 3]], ids=["full", "ragged"])
def test_loss_is_torchs_cross_entropy(cell, lengths):
    """Values and gradients of every weight, from the last valid state."""
    model, weights, plain = parts(cell)
    x, y = batch()
    steps = lengths or [7] * 6
    expected = torch.nn.functional.cross_entropy(plain(x, steps), y, reduction="sum")
    given = None if lengths is None else torch.tensor(lengths)
    actual = negative_log_prob(model, weights, x, y, lengths=given)
    close(actual, expected)
    wrt = list(weights.values())
    close(torch.autograd.grad(actual, wrt), torch.autograd.grad(expected, wrt))


@pytest.mark.parametrize(("num_data", "scale"), [(None, 1.0), (6, 1.0), (600, 100.0)])
def test_num_data_scales_the_likelihood_alone(num_data, scale):
    model, weights, plain = parts(num_data=num_data)
    x, y = batch()
    expected = torch.nn.functional.cross_entropy(plain(x, [7] * 6), y, reduction="sum")
    close(negative_log_prob(model, weights, x, y), scale * expected)
    trace = poutine.trace(model).get_trace(x, y)
    assert {s["scale"] for n, s in trace.nodes.items() if n in weights} == {1.0}


def test_sites():
    model, weights, _ = parts()
    x, _ = batch()
    nodes = poutine.trace(model).get_trace(x).nodes
    assert torch.equal(nodes["logits"]["value"], nodes["_RETURN"]["value"])
    assert nodes["logits"]["value"].shape == (6, C)
    assert nodes["obs"]["value"].dtype == torch.int64
    for name in ("obs", "logits"):
        assert [frame.name for frame in nodes[name]["cond_indep_stack"]] == ["data"]
    assert not any(nodes[name]["cond_indep_stack"] for name in weights)


@modes
@pytest.mark.parametrize("n", [1, 3, 9])
def test_prediction_of_any_number(n, parallel):
    """num_data is about training; parallel draws are particle dims in front."""
    model, _, _ = parts(num_data=3)
    draws = Predictive(model, num_samples=5, parallel=parallel)(batch(n)[0])
    assert draws["obs"].shape == (5, n)
    assert draws["logits"].shape == (5, n, C)


@cells
def test_all_sizes_equal(cell):
    """S = N = T = H = D = C: nothing may be told from a size."""
    model = vrnn.models.SequenceClassification(CELLS[cell](4, 4, **double), 4)
    x = torch.randn(4, 4, 4, **double)
    draws = Predictive(model, num_samples=4, parallel=True)(x)
    for i in range(4):
        weights = {k: v[i] for k, v in draws.items() if k not in ("obs", "logits")}
        weights = {k: v.reshape(v.shape[-1 if "bias" in k else -2 :]) for k, v in weights.items()}
        close(draws["logits"][i], poutine.condition(model, weights)(x))


@pytest.mark.parametrize("batch_first", [False, True])
def test_token_ids(batch_first):
    table = vrnn.nn.Embedding(7, 8, 0, **double)
    rnn = vrnn.nn.LSTM(8, 5, batch_first=batch_first, **double)
    model = vrnn.models.SequenceClassification(rnn, C, embedding=table)
    _, weights, plain = parts()
    rows = torch.randn(6, 8, **double)
    ids, lengths = torch.randint(7, (6, 7)), [7, 2, 5, 1, 7, 3]
    held = poutine.condition(model, {**weights, "embedding.weight": rows})
    full = torch.cat([torch.zeros(1, 8, **double), rows])
    close(held(ids, lengths=torch.tensor(lengths)), plain(full[ids], lengths))


ELBOS = {
    "ExactKL": vrnn.infer.TraceExactKL_ELBO,
    "MeanField": TraceMeanField_ELBO,
    "Trace": partial(Trace_ELBO, num_particles=2),
}


@pytest.mark.parametrize(
    ("elbo", "scope"),
    [("ExactKL", "batch"), ("ExactKL", "sequence"), ("MeanField", "batch"),
     ("MeanField", "sequence"), ("Trace", "batch")],
)  # fmt: skip
def test_svi_learns_the_classes(elbo, scope):
    """Classes that the sign of the input tells: all training sequences are found."""
    torch.manual_seed(0)
    y = torch.arange(20) % 2
    x = (2.0 * y - 1).reshape(20, 1, 1) + 0.1 * torch.randn(20, 4, 8)
    model = vrnn.models.SequenceClassification(vrnn.nn.GRU(8, 6), 2, num_data=2000)
    guide = vrnn.infer.AutoSpikeAndSlab(model, drop_prob=0.1, scale=0.01, scope=scope)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), ELBOS[elbo]())
    for _ in range(40):
        svi.step(x, y)
    p = vrnn.infer.predict(model, guide, x, num_samples=50, progress=False)
    assert torch.equal(p.probs.argmax(-1), y)


def test_auto_normal():
    model, x, y = classification()
    guide = AutoNormal(model, init_scale=0.05)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    losses = [svi.step(x, y) for _ in range(60)]
    assert sum(losses[-10:]) < sum(losses[:10])


@scopes
@pytest.mark.parametrize("strategy", ["loop", "batched"])
def test_predict(strategy, scope):
    """Probabilities are averaged over draws of the weights, and the entropy is split."""
    model, _, _ = parts()
    x, y = batch()
    guide = guided(model, x, y, scope=scope)
    p = vrnn.infer.predict(
        model, guide, x, num_samples=9, strategy=strategy, return_draws="mean", progress=False
    )
    assert p.mean_draws.shape == (9, 6, C)
    close(p.probs, p.mean_draws.mean(0))
    close(p.probs.sum(-1), torch.ones(6, **double))
    close(p.entropy, torch.special.entr(p.probs).sum(-1))
    mean_entropy = torch.special.entr(p.mean_draws).sum(-1).mean(0)
    close(p.mutual_information, p.entropy - mean_entropy)
    assert (p.mutual_information > 0).all()
    assert p.mean is None


@scopes
def test_export(scope):
    model, _, _ = parts()
    x, y = batch()
    guide = guided(model, x, y, scope=scope)
    data = vrnn.from_pyro_svi(model, guide, model_args=(x, y), num_samples=11)
    assert data["posterior_predictive"]["obs"].shape == (1, 11, 6)
    assert data["posterior_predictive"]["logits"].shape == (1, 11, 6, C)
    log_likelihood = torch.tensor(data["log_likelihood"]["obs"].values)[0]
    logits = torch.tensor(data["posterior_predictive"]["logits"].values)[0]
    close(log_likelihood, logits.log_softmax(-1)[:, torch.arange(6), y])


def test_sequences_have_masks_of_their_own():
    model, _, _ = parts()
    x, y = batch()
    twins = x[:1].expand(6, -1, -1).contiguous()
    guide = guided(model, twins, y, scope="sequence")
    drawn = poutine.trace(guide).get_trace(twins, y)
    logits = poutine.replay(model, trace=drawn)(twins, y).detach()
    assert len({float(v) for v in logits[:, 0]}) > 1


def test_render_model():
    model, x, y = classification()
    relations = pyro.infer.inspect.get_model_relations(model, (x, y))
    assert "obs" in relations["observed"]
    assert set(relations["plate_sample"]["data"]) == {"logits", "obs"}
    assert {"rnn.weight_hh_l1", "head.weight"} <= set(relations["sample_sample"]["obs"])
    graph = pyro.infer.inspect.generate_graph_specification(relations)
    assert graph["node_data"]["obs"]["distribution"] == "Categorical"


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32], ids=["uint8", "int32"])
def test_y_of_any_integer_dtype(dtype):
    model, weights, _ = parts()
    x, y = batch()
    close(*[negative_log_prob(model, weights, x, v) for v in (y, y.to(dtype))])


x, y = torch.randn(6, 7, 8), torch.arange(6) % C
CALLS = {
    "x-dims": ((x[0], y), ValueError, r"Expected x of shape \(N, T, 8\), got \(7, 8\)"),
    "x-dtype": ((x.double(), y), TypeError, r"Expected x of dtype torch.float32"),
    "y-dims": ((x, y[:, None]), ValueError, r"Expected y of shape \(6,\), got \(6, 1\)"),
    "y-size": ((x, y[:3]), ValueError, r"Expected y of shape \(6,\), got \(3,\)"),
    "y-list": ((x, [0] * 6), TypeError, r"Expected y to be a Tensor, got list"),
    "y-float": ((x, y.float()), TypeError, r"Expected y of an integer dtype .*torch.float32"),
    "y-bool": ((x, y > 1), TypeError, r"Expected y of an integer dtype .*torch.bool"),
    "y-high": ((x, y + 1), ValueError, r"Expected y in 0..3, got 4"),
    "y-low": ((x, y - 1), ValueError, r"Expected y in 0..3, got -1"),
    "batch": ((x, y), ValueError, r"a batch of at most num_data=5 sequences, got 6"),
}


@pytest.mark.parametrize("validate", [False, True], ids=["unchecked", "validated"])
@pytest.mark.parametrize(("args", "error", "message"), CALLS.values(), ids=CALLS)
def test_calls(args, error, message, validate):
    """On the CPU classes are checked whatever Pyro's setting."""
    model = vrnn.models.SequenceClassification(vrnn.nn.GRU(8, 5), C, num_data=5)
    with pyro.validation_enabled(validate), pytest.raises(error, match=message):
        model(*args)


def test_classes_are_not_read_off_the_cpu(monkeypatch):
    """A GPU would have to be waited for; tensors on the meta device have no values at all."""
    model, x, y = (part.to("meta") for part in classification())
    logits = torch.zeros(6, 4, device="meta")
    monkeypatch.setattr(type(model), "output", lambda *_: logits)
    with pyro.validation_enabled(False):
        assert model(x, y) is logits


BUILD = {
    "rnn": (dict(rnn=torch.nn.LSTM(8, 5)), TypeError, r"pyro_vrnn.nn RNN.* torch.nn.*\.LSTM"),
    "one-class": (dict(num_classes=1), ValueError, r"Expected num_classes of at least 2, got 1\."),
    "no-class": (dict(num_classes=0), ValueError, r"Expected num_classes to be a positive int"),
    "classes": (dict(num_classes=2.0), TypeError, r"num_classes to be a positive int, got 2.0"),
    "num_data": (dict(num_data=0), ValueError, r"Expected num_data to be a positive int, got 0"),
    "embedding": (
        dict(embedding=vrnn.nn.Embedding(7, 5)),
        ValueError,
        r"Expected an embedding of 8 dims, the rnn's input_size, got 5",
    ),
}


@pytest.mark.parametrize(("kwargs", "error", "message"), BUILD.values(), ids=BUILD)
def test_constructor(kwargs, error, message):
    with pytest.raises(error, match=message):
        vrnn.models.SequenceClassification(
            **{"rnn": vrnn.nn.LSTM(8, 5), "num_classes": C, **kwargs}
        )


@pytest.mark.gpu
def test_a_step_does_not_wait_for_the_gpu():
    model, x, y = classification(device="cuda")
    guide = vrnn.infer.AutoSpikeAndSlab(model)
    with pyro.validation_enabled(False):
        loss = vrnn.infer.TraceExactKL_ELBO()(model, guide)
        loss(x, y).backward()
        torch.cuda.set_sync_debug_mode("error")
        try:
            loss(x, y).backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
