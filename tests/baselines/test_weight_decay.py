"""Penalties against formulas by hand, and weight decay as the gradient of the penalised loss."""

from __future__ import annotations

import pytest
import torch

from pyro_vrnn import baselines
from pyro_vrnn.baselines import GaussianLoss, SequenceNetwork, SoftmaxLoss
from tests.baselines.cases import dropping, forms

N_DATA, TAU, LENGTH = 500, 3.0, 0.7
double = {"dtype": torch.float64}


def network(method="variational", parametrization="non-inverted", out=2, drop_prob=0.4):
    options = {"method": method, "parametrization": parametrization, **double}
    rnn = baselines.LSTM(9, 5, 2, drop_prob=drop_prob, **options)
    head = baselines.Linear(5, out, drop_prob={"linear": drop_prob}, **options)
    table = baselines.Embedding(30, 9, padding_idx=0, drop_prob=drop_prob, **options)
    return SequenceNetwork(rnn, head, table)


@dropping
@forms
@pytest.mark.parametrize(("prior_scale", "prior_loc"), [(1.0, 0.0), (0.3, 0.2)])
def test_penalty_by_hand(method, parametrization, prior_scale, prior_loc):
    module, p = network(method, parametrization), 0.4
    kinds = {
        "naive": ("_ih", "_hh", "head"),
        "non-recurrent": ("_ih", "head"),
    }.get(method, ("_ih", "_hh", "head", "embedding"))
    expected = 0.0
    for name, m in module.named_parameters():
        m = m[1:] if "embedding" in name else m  # without the row of padding_idx
        dropped = "weight" in name and any(kind in name for kind in kinds)
        square = (m - prior_loc).square().sum()
        if dropped and method == "gaussian":
            square = square + p / (1 - p) * m.square().sum()
        elif dropped:
            m = m / (1 - p) if parametrization == "inverted" else m
            square = (1 - p) * (m - prior_loc).square().sum()
        expected = expected + square / (2 * prior_scale**2)
    actual = baselines.l2_penalty(module, prior_scale, prior_loc)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)


def test_penalty_of_plain_layers():
    """Every parameter of torch.nn's has p = 0; a shared one counts once."""
    module = torch.nn.Sequential(torch.nn.LSTM(3, 4), torch.nn.Linear(4, 4), torch.nn.Dropout(0.5))
    module.append(module[1])
    expected = sum(p.square().sum() for p in module.parameters()) / (2 * 0.25)
    torch.testing.assert_close(baselines.l2_penalty(module, 0.5), expected)
    assert sum(len(g["params"]) for g in baselines.decay_groups(module, 1.0, 10)) == 6


def test_equal_functions_have_equal_penalties():
    """Inverted weights m' = (1 - p) m: same evaluation, same penalty."""
    plain, inverted = network(), network(parametrization="inverted")
    state = {name: w * (0.6 if "weight" in name else 1.0) for name, w in plain.state_dict().items()}
    inverted.load_state_dict(state)
    ids = torch.randint(0, 30, (4, 6))
    torch.testing.assert_close(plain.eval()(ids), inverted.eval()(ids), rtol=1e-12, atol=1e-12)
    penalties = baselines.l2_penalty(plain), baselines.l2_penalty(inverted)
    torch.testing.assert_close(*penalties, rtol=1e-12, atol=0)


@pytest.mark.parametrize("parametrization", ["non-inverted", "inverted"])
def test_rule_of_length_scale(parametrization):
    actual = baselines.length_scale_weight_decay(
        LENGTH, 0.25, N_DATA, TAU, parametrization=parametrization
    )
    factor = 0.75 if parametrization == "non-inverted" else 1 / 0.75
    assert actual == pytest.approx(LENGTH**2 * factor / (2 * N_DATA * TAU), rel=1e-14)


def penalised_step(loss, data, divide, lr=0.1, seed=0):
    """Return the parameters after a step along the gradient of the penalised loss / divide."""
    torch.manual_seed(seed)
    parameters = list(loss.network.parameters())
    grads = torch.autograd.grad(loss(*data) / divide, parameters)
    return [(p - lr * g).detach() for p, g in zip(parameters, grads, strict=True)]


def decay_step(module, groups, objective, lr=0.1, seed=0):
    """Return the parameters after a step of torch's SGD on a bare objective."""
    optimizer = torch.optim.SGD(groups, lr=lr)
    torch.manual_seed(seed)
    objective().backward()
    optimizer.step()
    return [p.detach() for p in module.parameters()]


def equal(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-14)


def data(out):
    return torch.randint(0, 30, (20, 6)), torch.randn(20, out, **double)


def groups_of(module, tau=TAU):
    return baselines.decay_groups(module, LENGTH, N_DATA, tau)


@dropping
@forms
@pytest.mark.parametrize("drop_prob", [0.4, 0.0], ids=["dropped", "p=0"])
def test_half_the_squared_error(method, parametrization, drop_prob):
    """Rows 1, 4 and 5 of the table: weights, inverted scaling, biases and p = 0."""
    module = network(method, parametrization, drop_prob=drop_prob)
    x, y = data(2)
    loss = GaussianLoss(module, tau=TAU, num_data=N_DATA, prior_scale=1 / LENGTH)
    expected = penalised_step(loss, (x, y), N_DATA * TAU)

    def objective():
        return 0.5 * (y - module(x)).square().sum(-1).mean()

    equal(decay_step(module, groups_of(module), objective), expected)


@forms
def test_mean_squared_error(parametrization):
    """Row 2: 4 lambda at half the learning rate."""
    module = network(parametrization=parametrization, out=1)
    x, y = data(1)
    loss = GaussianLoss(module, tau=TAU, num_data=N_DATA, prior_scale=1 / LENGTH)
    expected = penalised_step(loss, (x, y), N_DATA * TAU)
    groups = [{**g, "weight_decay": 2 * g["weight_decay"]} for g in groups_of(module)]

    def objective():
        return torch.nn.functional.mse_loss(module(x), y)

    equal(decay_step(module, groups, objective, lr=0.05), expected)


@forms
def test_cross_entropy(parametrization):
    """Row 3: tau = 1."""
    module = network(parametrization=parametrization, out=8)
    x, y = torch.randint(0, 30, (20, 6)), torch.randint(0, 8, (20,))
    loss = SoftmaxLoss(module, num_data=N_DATA, prior_scale=1 / LENGTH)
    expected = penalised_step(loss, (x, y), N_DATA)

    def objective():
        return torch.nn.functional.cross_entropy(module(x), y)

    equal(decay_step(module, groups_of(module, 1.0), objective), expected)


def test_groups_hold_every_parameter_once():
    module = GaussianLoss(network(drop_prob=0.25), learn_tau=True)
    groups = groups_of(module)
    ids = [id(p) for g in groups for p in g["params"]]
    assert sorted(ids) == sorted(id(p) for p in module.parameters())
    decay = LENGTH**2 / (N_DATA * TAU)
    assert sorted(g["weight_decay"] for g in groups) == pytest.approx([0.0, 0.75 * decay, decay])
    assert [g["params"] for g in groups if g["weight_decay"] == 0] == [[module.log_tau]]


def test_learned_precision_has_no_penalty():
    module = GaussianLoss(network(), tau=5.0, learn_tau=True)
    assert torch.equal(baselines.l2_penalty(module), baselines.l2_penalty(module.network))


@pytest.mark.parametrize("function", [
    baselines.l2_penalty, lambda module: baselines.decay_groups(module, 1.0, 10)
], ids=["penalty", "groups"])  # fmt: skip
def test_shared_parameter_dropped_in_two_ways(function):
    module = torch.nn.ModuleDict({
        "a": baselines.Linear(9, 8, bias=False, drop_prob=0.5),
        "b": torch.nn.Linear(9, 8, bias=False),
    })  # fmt: skip
    module["b"].weight = module["a"].weight
    message = (
        r"Expected one drop_prob and parametrization of the shared parameter 'a.weight', "
        r"got 0.5 \(non-inverted\) there and 0.0 \(non-inverted\) as 'b.weight'\."
    )
    with pytest.raises(ValueError, match=message):
        function(module)


@pytest.mark.parametrize(("args", "message"), [
    ((0.0, 0.2, 10), r"Expected length_scale to be a positive number, got 0.0\."),
    ((1.0, 1.0, 10), r"Expected drop_prob in \[0, 1\), got 1.0: everything would be dropped\."),
    ((1.0, 0.2, 0), r"Expected num_data to be a positive int, got 0\."),
    ((1.0, 0.2, 10, -1.0), r"Expected tau to be a positive number, got -1.0\."),
    ((1.0, 0.2, 10, 1.0, "both"), "Expected parametrization to be one of 'non-inverted', 'inve"),
], ids=["length_scale", "drop_prob", "num_data", "tau", "parametrization"])  # fmt: skip
def test_rule_refuses(args, message):
    with pytest.raises(ValueError, match=message):
        baselines.length_scale_weight_decay(*args)


def test_penalty_refuses():
    with pytest.raises(ValueError, match="Expected a module with parameters, got ReLU"):
        baselines.l2_penalty(torch.nn.ReLU())
    with pytest.raises(ValueError, match="Expected prior_scale to be a positive number, got 0"):
        baselines.l2_penalty(torch.nn.Linear(1, 1), prior_scale=0.0)
