"""Forecaster: raw units, the arithmetic of the lag, lengths, covariates, and what it refuses."""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive

import pyro_vrnn as vrnn
from tests.models.cases import CELLS, cells

TORCH = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}
double = {"dtype": torch.float64}
lags = pytest.mark.parametrize("lag", [None, 3, 5], ids=["no-lag", "lag3", "lag5"])


def series_of(n, columns=None):
    """Return a random walk around 300, with covariates if asked for."""
    shape = (n,) if columns is None else (n, columns)
    return torch.randn(shape, **double).cumsum(0) + 300


def forecaster(cell="lstm", *, inputs=1, horizon=3, batch_first=False, **kwargs):
    rnn = CELLS[cell](inputs, 4, batch_first=batch_first, **double)
    return vrnn.models.Forecaster(rnn, horizon, **kwargs)


def weights_of(model, zero_head=False):
    """Return one draw of every weight, the head's at 0 if asked for."""
    x = torch.zeros(1, model.min_window, model.rnn.input_size, **double)
    trace = poutine.trace(model).get_trace(x)
    drawn = {n: s["value"] for n, s in trace.nodes.items() if n.startswith(("rnn.", "head."))}
    return {n: w * (not (zero_head and n.startswith("head"))) for n, w in drawn.items()}


def held(model, **kwargs):
    return poutine.condition(model, weights_of(model, **kwargs))


def log_prob(model, weights, *args):
    trace = poutine.trace(poutine.condition(model, weights)).get_trace(*args)
    trace.compute_log_prob()
    return trace.nodes["obs"]["log_prob_sum"]


def close(actual, expected, tolerance=1e-9):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@cells
@lags
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("ragged", [False, True], ids=["full", "ragged"])
def test_value_by_hand(cell, lag, batch_first, ragged):
    """Each window by itself, in plain torch, with a covariate beside the series."""
    model = forecaster(cell, inputs=2, lag=lag, batch_first=batch_first)
    training = series_of(50, 2)
    model.fit_scaling(training)
    weights = weights_of(model)
    x = training.unfold(0, 9, 10).transpose(1, 2)  # (5, 9, 2)
    lengths = [9, 6, 7, 9, 8] if ragged else [9] * 5
    loc = poutine.condition(model, weights)(x, lengths=torch.tensor(lengths) if ragged else None)

    changed = training.clone()
    if lag is not None:
        changed = changed[lag:]
        changed[:, 0] = training[lag:, 0] - training[:-lag, 0]
    mean, deviation = changed.mean(0), changed.std(0)
    twin = TORCH[cell](2, 4, **double)
    twin.load_state_dict({k[4:]: v for k, v in weights.items() if k.startswith("rnn.")})
    for window, length, actual in zip(x, lengths, loc, strict=True):
        window = window[:length]
        inputs, base = window.clone(), mean[0].expand(3)
        if lag is not None:
            inputs = inputs[lag:]
            inputs[:, 0] = window[lag:, 0] - window[:-lag, 0]
            base = window[length - lag : length - lag + 3, 0] + window[-1, 0] - window[-1 - lag, 0]
        _, state = twin((inputs - mean) / deviation)
        h = (state[0] if isinstance(state, tuple) else state)[-1]
        expected = base + deviation[0] * (weights["head.weight"] @ h + weights["head.bias"])
        close(actual, expected.detach())


def test_lag_arithmetic():
    """With a head of zeros, y_{t+h} = x_{t+h-k} + x_t - x_{t-k}: season and trend go on."""
    model = forecaster(horizon=4, lag=4)
    season = torch.tensor([1.0, 5.0, -2.0, 0.5], **double).repeat(10)
    line = 0.25 * torch.arange(40, **double)
    model.fit_scaling(season + line)
    loc = held(model, zero_head=True)((season + line)[None, :36, None])
    close(loc[0], (season + line)[36:])


def test_lag_arithmetic_by_hand():
    model = forecaster(horizon=2, lag=3)
    x = torch.tensor([[10.0, 11.0, 12.0, 20.0, 21.0, 25.0]], **double).unsqueeze(-1)
    model = held(model, zero_head=True)
    # x_{t+1-3} = 20 and x_{t+2-3} = 21; the last change is 25 - 12 = 13.
    assert model(x).tolist() == [[33.0, 34.0]]
    # Five valid steps: 12 and 20, and 21 - 11 = 10.
    assert model(x, lengths=torch.tensor([5])).tolist() == [[22.0, 30.0]]


def test_without_a_lag_the_zero_head_gives_the_mean():
    model = forecaster()
    series = series_of(50)
    model.fit_scaling(series)
    loc = held(model, zero_head=True)(series[None, :9, None])
    close(loc, series.mean().expand(1, 3))


@cells
@lags
def test_forecasts_follow_the_units_of_the_series(cell, lag):
    """Scaled by 1000 and shifted, forecasts and their spread are scaled and shifted alike."""
    model = forecaster(cell, lag=lag, tau=2.0)
    weights = weights_of(model)
    series = series_of(60)
    noise = torch.randn(5, 3, **double)
    results = []
    for scale, shift in ((1.0, 0.0), (1000.0, -4e5)):
        raw = series * scale + shift
        model.fit_scaling(raw)
        x = raw.unfold(0, 12, 12).unsqueeze(-1)
        trace = poutine.trace(poutine.condition(model, weights)).get_trace(x)
        obs = trace.nodes["obs"]["fn"]
        draw = obs.mean + obs.stddev * noise
        results.append([(obs.mean - shift) / scale, obs.stddev / scale, (draw - shift) / scale])
    for a, b in zip(*results, strict=True):
        close(a, b, 1e-8)


@lags
def test_density_is_in_raw_units(lag):
    """log N(y; loc, s^2 / tau), with s the deviation of what the network sees."""
    tau = torch.tensor([4.0, 1.0, 0.25], **double)
    model = forecaster(lag=lag, tau=tau)
    series = series_of(60)
    model.fit_scaling(series)
    weights = weights_of(model)
    x, y = series[None, :9, None], series[None, 9:12]
    unit = (series if lag is None else series[lag:] - series[:-lag]).std()
    loc = poutine.condition(model, weights)(x)
    close(log_prob(model, weights, x, y), dist.Normal(loc, unit / tau.sqrt()).log_prob(y).sum())


@pytest.mark.parametrize("parallel", [False, True], ids=["sequential", "parallel"])
def test_predictive_is_in_raw_units(parallel):
    model = forecaster(lag=3, tau=1e12)
    series = series_of(60) * 1000
    model.fit_scaling(series)
    draws = Predictive(model, num_samples=20, parallel=parallel)(series[None, :9, None])
    assert draws["obs"].shape == (20, 1, 3)
    unit = float((series[3:] - series[:-3]).std())
    assert (draws["obs"] - draws["loc"]).abs().max() < 5e-6 * unit


def test_overlap_weighs_the_likelihood():
    """A value that is a target in two windows counts half in each."""
    series = series_of(60)
    x, y = series.unfold(0, 9, 10)[:4].unsqueeze(-1), series_of(12).reshape(4, 3)
    once, twice = forecaster(lag=3), forecaster(lag=3, overlap=2.0)
    weights = weights_of(once)
    close(log_prob(twice, weights, x, y), log_prob(once, weights, x, y) / 2)


def test_overlap_and_num_data_multiply():
    series = series_of(60)
    x, y = series.unfold(0, 9, 10)[:4].unsqueeze(-1), series_of(12).reshape(4, 3)
    plain, both = forecaster(), forecaster(overlap=3.0, num_data=48)
    weights = weights_of(plain)
    close(log_prob(both, weights, x, y), log_prob(plain, weights, x, y) * 48 / 4 / 3)


@pytest.mark.parametrize("tau", [2.0, torch.tensor(2.0)], ids=["float", "tensor"])
def test_one_learned_precision_per_horizon(tau):
    model = forecaster(tau=tau)
    assert model.tau.shape == (3,)
    assert [n for n, _ in model.named_parameters()] == ["tau_unconstrained"]
    assert forecaster(tau=tau, learn_tau=False).tau.shape == ()


def test_tau_keeps_its_digits():
    assert forecaster(tau=0.1).tau.tolist() == pytest.approx([0.1] * 3, rel=1e-14)


def test_two_forecasters_learn_a_precision_each():
    series = series_of(60)
    x, y = series[None, :9, None], series[None, 9:12]
    model, other = forecaster(tau=4.0), forecaster(tau=0.5)
    model(x, y)
    other(x, y)
    assert model.tau.tolist() == pytest.approx([4.0] * 3)
    assert other.tau.tolist() == pytest.approx([0.5] * 3)


def test_scaling_travels_in_the_state_dict():
    series = series_of(60)
    model, other = forecaster(lag=3), forecaster(lag=3)
    model.fit_scaling(series)
    other.load_state_dict(model.state_dict())
    weights = weights_of(model)
    x = series[None, :9, None]
    assert torch.equal(*[poutine.condition(m, weights)(x) for m in (model, other)])


@pytest.mark.parametrize("lag", [None, 12], ids=["no-lag", "lag"])
def test_exactly_linear_series(lag):
    """The changes of a line have no spread: forecasts stay finite."""
    line = torch.arange(100, **double)
    model = forecaster(lag=lag, horizon=3)
    model.fit_scaling(line)
    loc = model(line[None, :40, None])
    assert torch.isfinite(loc).all()
    assert bool((model.scale > 0).all())


@cells
@lags
def test_all_sizes_equal(cell, lag):
    """S = N = horizon = H = 4, T = 9 or, without a lag, 4: nothing is told from a size."""
    model = forecaster(cell, horizon=3 if lag == 3 else 4, lag=lag)
    series = series_of(60)
    model.fit_scaling(series)
    x = series.unfold(0, 4 if lag is None else 9, 10)[:4].unsqueeze(-1)
    draws = Predictive(model, num_samples=4, parallel=True)(x)
    for i in range(4):
        weights = {n: v[i] for n, v in draws.items() if n not in ("obs", "loc")}
        weights = {n: v.reshape(v.shape[-1 if "bias" in n else -2 :]) for n, v in weights.items()}
        close(draws["loc"][i], poutine.condition(model, weights)(x))


def test_the_future_of_a_ragged_window_is_not_read():
    series = series_of(60)
    model = forecaster(inputs=2, lag=3)
    x = torch.stack([series[:9], series[9:18]], dim=-1)[None]
    changed = x.clone()
    changed[:, 6:] = 1e5
    model = held(model)
    six = torch.tensor([6])
    close(model(x, lengths=six), model(changed, lengths=six))


BUILD = {
    "lag": (dict(lag=2), ValueError, r"Expected lag of at least horizon=3, got 2"),
    "lag-0": (dict(lag=0), ValueError, r"Expected lag to be a positive int, got 0"),
    "horizon": (dict(horizon=0), ValueError, r"Expected horizon to be a positive int, got 0"),
    "overlap": (dict(overlap=0.0), ValueError, r"Expected overlap to be a positive number, got 0"),
    "tau": (dict(tau=-1.0), ValueError, r"Expected tau to be positive and finite"),
    "tau-shape": (dict(tau=torch.ones(2)), ValueError, r"tau of shape \(\) or \(3,\), got \(2,\)"),
    "rnn": (dict(rnn=torch.nn.GRU(1, 4)), TypeError, r"pyro_vrnn.nn RNN.*priors.*torch.nn.*GRU"),
}


@pytest.mark.parametrize(("kwargs", "error", "message"), BUILD.values(), ids=BUILD)
def test_constructor(kwargs, error, message):
    with pytest.raises(error, match=message):
        vrnn.models.Forecaster(**{"rnn": vrnn.nn.LSTM(1, 4), "horizon": 3, **kwargs})


NAN = torch.full((10,), math.nan)
SCALING = {
    "nan": (NAN, r"Expected values to be finite, got nan at index \(0, 0\)"),
    "columns": (torch.zeros(10, 2), r"Expected values of shape \(\*, 1\), got \(10, 2\)"),
    "few": (torch.zeros(5), r"Expected over 5 values, got 5"),
}


@pytest.mark.parametrize(("values", "message"), SCALING.values(), ids=SCALING)
def test_scaling(values, message):
    with pytest.raises(ValueError, match=message):
        vrnn.models.Forecaster(vrnn.nn.LSTM(1, 4), 3, lag=4).fit_scaling(values)


x, y = torch.zeros(2, 9, 1), torch.zeros(2, 3)
CALLS = {
    "short": (dict(x=x[:, :4]), r"windows of at least 5 steps \(lag 4\), got 4 in x of shape"),
    "short-length": (dict(x=x, lengths=torch.tensor([9, 4])), r"at least 5 steps .*, got 4 in x"),
    "columns": (dict(x=torch.zeros(2, 9, 2)), r"Expected x of shape \(N, T, 1\), got \(2, 9, 2\)"),
    "horizon": (dict(x=x, y=y[:, :2]), r"Expected y of shape \(2, 3\), got \(2, 2\)"),
    "x-nan": (dict(x=x / 0), r"Expected x to be finite, got nan at index \(0, 0, 0\)"),
    "y-nan": (dict(x=x, y=y / 0), r"Expected y to be finite, got nan at index \(0, 0\)"),
    "batch": (dict(x=x, y=y), r"Expected a batch of at most num_data=1 sequences, got 2"),
}


@pytest.mark.parametrize(("kwargs", "message"), CALLS.values(), ids=CALLS)
def test_calls(kwargs, message):
    model = vrnn.models.Forecaster(vrnn.nn.LSTM(1, 4), 3, lag=4, num_data=1)
    with pytest.raises(ValueError, match=message):
        model(**kwargs)


def test_shortest_window():
    model = vrnn.models.Forecaster(vrnn.nn.LSTM(1, 4), 3, lag=4)
    assert model.min_window == 5
    assert model(x[:, :5]).shape == (2, 3)
    assert vrnn.models.Forecaster(vrnn.nn.LSTM(1, 4), 3)(x[:, :1]).shape == (2, 3)
