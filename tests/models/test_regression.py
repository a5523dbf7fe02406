"""SequenceRegression: its values and density by hand, scaling, lengths, and what it refuses."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive
from pyro.nn import PyroParam

import pyro_vrnn as vrnn
from tests.models.cases import CELLS, cells

TORCH = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}
double = {"dtype": torch.float64}


def randn(*shape, **kwargs):
    return torch.randn(*shape, **double, **kwargs)


def parts(cell="lstm", outputs=2, layers=2, bidirectional=True, batch_first=False, **kwargs):
    """Return a model of H = 4 on D = 3 inputs, plain torch's network, and its weights by site."""
    options = dict(bidirectional=bidirectional, batch_first=batch_first, **double)
    model = vrnn.models.SequenceRegression(CELLS[cell](3, 4, layers, **options), outputs, **kwargs)
    plain = torch.nn.ModuleDict(
        {
            "rnn": TORCH[cell](3, 4, layers, bidirectional=bidirectional, **double),
            "head": torch.nn.Linear(8 if bidirectional else 4, outputs, **double),
        }
    )
    return model, plain, {name: p.detach() for name, p in plain.named_parameters()}


def one_by_one(plain, x, lengths):
    """Run plain torch on each sequence, cut to its length; both directions' last states."""
    rows = []
    for sequence, length in zip(x, lengths, strict=True):
        _, state = plain["rnn"](sequence[:length].unsqueeze(1))
        h = state[0] if isinstance(state, tuple) else state
        last = h[-2:] if plain["rnn"].bidirectional else h[-1:]
        rows.append(plain["head"](last[:, 0].flatten()))
    return torch.stack(rows).detach()


def close(actual, expected, tolerance=1e-10):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def log_prob(model, weights, *args, **kwargs):
    """Return the log-likelihood the ELBO sees, given the weights."""
    trace = poutine.trace(poutine.condition(model, weights)).get_trace(*args, **kwargs)
    trace.compute_log_prob()
    return trace.nodes["obs"]["log_prob_sum"]


LENGTHS = {"full": None, "ragged": [2, 5, 1, 5], "short": [3, 3, 3, 3]}
lengths_ = pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)


@cells
@lengths_
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one-way", "two-way"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_value_is_plain_torchs(cell, lengths, bidirectional, batch_first):
    """From the last *valid* state, x being (N, T, D) whatever batch_first says."""
    model, plain, weights = parts(cell, bidirectional=bidirectional, batch_first=batch_first)
    x = randn(4, 5, 3)
    given = None if lengths is None else torch.tensor(lengths)
    loc = poutine.condition(model, weights)(x, lengths=given)
    close(loc, one_by_one(plain, x, lengths or [5] * 4))


@cells
def test_padding_does_not_matter(cell):
    model, _, weights = parts(cell)
    model = poutine.condition(model, weights)
    x = randn(4, 5, 3)
    padded = x.clone()
    lengths = torch.tensor([2, 5, 1, 4])
    padded[torch.arange(5) >= lengths.unsqueeze(1)] = 1e6
    close(model(x, lengths=lengths), model(padded, lengths=lengths))


@cells
def test_all_sizes_equal(cell):
    """S = N = T = H = D = outputs: nothing may be told from a size."""
    rnn = CELLS[cell](4, 4, **double)
    model = vrnn.models.SequenceRegression(rnn, 4)
    x = randn(4, 4, 4)
    draws = Predictive(model, num_samples=4, parallel=True)(x)
    for i in range(4):
        weights = {k: v[i] for k, v in draws.items() if k not in ("obs", "loc")}
        weights = {k: v.reshape(v.shape[-1 if "bias" in k else -2 :]) for k, v in weights.items()}
        twin = TORCH[cell](4, 4, **double)
        twin.load_state_dict({k[4:]: v for k, v in weights.items() if k.startswith("rnn.")})
        _, state = twin(x.transpose(0, 1))
        h = (state[0] if isinstance(state, tuple) else state)[-1]
        expected = h @ weights["head.weight"].T + weights["head.bias"]
        close(draws["loc"][i], expected.detach())


@pytest.mark.parametrize("padding_idx", [None, 0], ids=["no-padding", "padding"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_token_ids(padding_idx, batch_first):
    table = vrnn.nn.Embedding(7, 3, padding_idx, **double)
    rnn = vrnn.nn.GRU(3, 4, batch_first=batch_first, **double)
    model = vrnn.models.SequenceRegression(rnn, 2, embedding=table)
    _, plain, weights = parts("gru", layers=1, bidirectional=False)
    rows = randn(7 if padding_idx is None else 6, 3)
    full = rows if padding_idx is None else torch.cat([torch.zeros(1, 3, **double), rows])
    ids = torch.randint(7, (4, 5))
    lengths = [5, 2, 3, 1]
    loc = poutine.condition(model, {**weights, "embedding.weight": rows})(
        ids, lengths=torch.tensor(lengths)
    )
    close(loc, one_by_one(plain, full[ids], lengths))


TAUS = {"scalar": 4.0, "tensor": torch.tensor(4.0), "each": torch.tensor([4.0, 0.25])}


@pytest.mark.parametrize("learn_tau", [False, True], ids=["fixed", "learned"])
@pytest.mark.parametrize("tau", TAUS.values(), ids=TAUS)
def test_density(tau, learn_tau):
    """N(y; loc, 1/tau): tau is a precision."""
    model, plain, weights = parts(tau=tau, learn_tau=learn_tau)
    x, y = randn(4, 5, 3), randn(4, 2)
    deviation = torch.as_tensor(tau, **double).expand(2) ** -0.5
    expected = dist.Normal(one_by_one(plain, x, [5] * 4), deviation).log_prob(y).sum()
    close(log_prob(model, weights, x, y), expected)


def test_learned_tau_is_a_parameter_and_positive():
    model, _, _ = parts(tau=4.0, learn_tau=True)
    assert [name for name, _ in model.named_parameters()] == ["tau_unconstrained"]
    with torch.no_grad():
        model.tau_unconstrained.fill_(-50.0)
    assert model.tau.item() > 0
    fixed, _, _ = parts(tau=4.0)
    assert not list(fixed.parameters())
    assert fixed.tau.tolist() == 4.0


@pytest.mark.parametrize("learn_tau", [False, True], ids=["fixed", "learned"])
def test_tau_is_a_copy(learn_tau):
    tau = torch.tensor([1.0, 2.0], **double)
    model, _, _ = parts(tau=tau, learn_tau=learn_tau)
    tau.fill_(9.0)
    assert model.tau.tolist() == pytest.approx([1.0, 2.0])


@pytest.mark.parametrize("local", [False, True], ids=["global-store", "module-local"])
def test_two_models_learn_a_tau_each(local):
    with pyro.settings.context(module_local_params=local):
        model, _, weights = parts(tau=4.0, learn_tau=True)
        other, _, _ = parts(tau=0.5, learn_tau=True)
        x, y = randn(4, 5, 3), randn(4, 2)
        values = [log_prob(m, weights, x, y).item() for m in (model, other, model)]
        assert values[0] == values[2] != values[1]
        named = poutine.trace(model).get_trace(x, y)
        assert len([n for n, s in named.nodes.items() if s["type"] == "param"]) == 1
        assert other.tau.item() == pytest.approx(0.5)
        other.tau = PyroParam(torch.tensor(7.0, **double))
        assert model.tau.item() == pytest.approx(4.0)


@pytest.mark.parametrize(("num_data", "scale"), [(None, 1.0), (4, 1.0), (400, 100.0)])
def test_num_data_scales_the_likelihood_alone(num_data, scale):
    model, _, weights = parts(num_data=num_data)
    plain, _, _ = parts()
    x, y = randn(4, 5, 3), randn(4, 2)
    close(log_prob(model, weights, x, y), scale * log_prob(plain, weights, x, y))
    trace = poutine.trace(model).get_trace(x, y)
    assert {s["scale"] for n, s in trace.nodes.items() if n.startswith(("rnn.", "head."))} == {1.0}


def test_batch_larger_than_num_data():
    model, _, _ = parts(num_data=3)
    x, y = randn(4, 5, 3), randn(4, 2)
    with pytest.raises(ValueError, match=r"a batch of at most num_data=3 sequences, got 4"):
        model(x, y)


@pytest.mark.parametrize("parallel", [False, True], ids=["sequential", "parallel"])
@pytest.mark.parametrize("n", [1, 3, 5, 7])
def test_prediction_of_any_number(n, parallel):
    """num_data is about training: predictions take more sequences, and fewer."""
    model, _, _ = parts(num_data=3)
    draws = Predictive(model, num_samples=5, parallel=parallel)(randn(n, 5, 3))
    assert draws["obs"].shape == draws["loc"].shape == (5, n, 2)


def test_sites():
    model, _, _ = parts()
    x = randn(4, 5, 3)
    trace = poutine.trace(model).get_trace(x)
    assert torch.equal(trace.nodes["loc"]["value"], trace.nodes["_RETURN"]["value"])
    assert trace.nodes["obs"]["value"].shape == (4, 2)
    assert [f.name for f in trace.nodes["obs"]["cond_indep_stack"]] == ["data"]
    weights = [s for n, s in trace.nodes.items() if n.startswith(("rnn.", "head."))]
    assert len(weights) == 18
    assert not any(s["cond_indep_stack"] for s in weights)


x, y = torch.randn(4, 5, 3), torch.randn(4, 2)
holey = x.clone()
holey[1, 2, 0] = float("nan")
CALLS = {
    "x-dims": ((x[0], y), {}, ValueError, r"Expected x of shape \(N, T, 3\), got \(5, 3\)"),
    "x-size": ((x[..., :2], y), {}, ValueError, r"Expected x of shape \(N, T, 3\), got \(4, 5, 2"),
    "x-nan": ((holey, y), {}, ValueError, r"Expected x to be finite, got nan at index \(1, 2, 0\)"),
    "x-list": (([1.0], y), {}, TypeError, r"Expected x to be a Tensor, got list"),
    "x-empty": ((x[:0],), {}, ValueError, r"x of at least one sequence, got shape \(0, 5, 3\)\."),
    "x-dtype": ((x.double(),), {}, TypeError, r"Expected x of dtype torch.float32 .*torch.float64"),
    "y-nan": ((x, y / 0), {}, ValueError, r"Expected y to be finite, got -?inf at index \(0, 0\)"),
    "y-dims": ((x, y[:, 0]), {}, ValueError, r"Expected y of shape \(4, 2\), got \(4,\)"),
    "y-size": ((x, y[:3]), {}, ValueError, r"Expected y of shape \(4, 2\), got \(3, 2\)"),
    "lengths": (
        (x, y),
        {"lengths": torch.tensor([5, 5, 6, 1])},
        ValueError,
        r"Expected lengths in 1..5, got 6",
    ),
}


@pytest.mark.parametrize(("args", "kwargs", "error", "message"), CALLS.values(), ids=CALLS)
def test_calls(args, kwargs, error, message):
    model = vrnn.models.SequenceRegression(vrnn.nn.LSTM(3, 4), 2)
    with pytest.raises(error, match=message):
        model(*args, **kwargs)


def test_ids_of_the_wrong_shape():
    embedding = vrnn.nn.Embedding(7, 3)
    model = vrnn.models.SequenceRegression(vrnn.nn.LSTM(3, 4), 2, embedding=embedding)
    with pytest.raises(ValueError, match=r"Expected x of shape \(N, T\), got \(4, 5, 3\)"):
        model(x)
    with pytest.raises(ValueError, match=r"x of at least one sequence, got shape \(0, 5\)"):
        model(torch.zeros(0, 5, dtype=torch.int64))


def test_input_under_autocast():
    model = vrnn.models.SequenceRegression(vrnn.nn.LSTM(3, 4), 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model.check_input(x.bfloat16())


lstm = vrnn.nn.LSTM(3, 4)
BUILD = {
    "torch-rnn": (dict(rnn=torch.nn.LSTM(3, 4)), TypeError, r"pyro_vrnn.nn RNN.* torch.nn.*\.LSTM"),
    "outputs": (dict(out_features=0), ValueError, r"Expected out_features to be a positive int"),
    "num_data": (dict(num_data=0), ValueError, r"Expected num_data to be a positive int, got 0"),
    "tau-0": (dict(tau=0.0), ValueError, r"Expected tau to be positive and finite, got 0.0"),
    "tau-nan": (dict(tau=float("nan")), ValueError, r"Expected tau to be positive.*, got nan"),
    "tau-some": (dict(tau=torch.tensor([1.0, -1.0])), ValueError, r"Expected tau to be positive"),
    "tau-shape": (dict(tau=torch.ones(3)), ValueError, r"tau of shape \(\) or \(2,\), got \(3,\)"),
    "embedding": (
        dict(embedding=vrnn.nn.Embedding(7, 5)),
        ValueError,
        r"Expected an embedding of 3 dims, the rnn's input_size, got 5",
    ),
}


@pytest.mark.parametrize(("kwargs", "error", "message"), BUILD.values(), ids=BUILD)
def test_constructor(kwargs, error, message):
    with pytest.raises(error, match=message):
        vrnn.models.SequenceRegression(**{"rnn": lstm, "out_features": 2, **kwargs})


def test_torch_s_embedding_is_refused():
    with pytest.raises(TypeError, match=r"Expected embedding to be a pyro_vrnn.nn.Embedding .*got"):
        vrnn.models.SequenceRegression(vrnn.nn.LSTM(8, 4), 1, embedding=torch.nn.Embedding(50, 8))
