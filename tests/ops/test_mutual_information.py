import math

import mpmath as mp
import pytest
import torch

from pyro_vrnn.ops.mutual_information import (
    binary_entropy,
    mutual_information,
    mutual_information_grad,
    mutual_information_table,
    tabulated_mutual_information,
)

PROBS = [1e-6, 1e-3, 0.25, 0.5, 1 - 1e-6]
DISTANCES = [1e-6, 0.1, 0.99, 1.01, 3.0, 8.0, 19.9, 1e8]


def density_integral(integrand, d, p):
    """Integrate ``integrand(p N(y; 0, 1), (1 - p) N(y; d, 1))`` over y with 45 digits."""
    with mp.workdps(45):
        d, p = mp.sqrt(mp.mpf(d * d)), mp.mpf(p)

        def at(y):
            spike = p * mp.npdf(y)
            slab = (1 - p) * mp.npdf(y, d)
            return integrand(spike, slab) if spike + slab else mp.mpf(0)

        pieces = [(-15, d + 15)] if d < 30 else [(-15, 15), (d - 15, d + 15)]
        return sum(mp.quad(at, mp.linspace(a, b, 11), method="gauss-legendre") for a, b in pieces)


def exact_information(d, p):
    with mp.workdps(45):
        entropy = density_integral(lambda a, b: -(a + b) * mp.log(a + b), d, p)
        return entropy - mp.log(2 * mp.pi * mp.e) / 2


def exact_derivative(d, p):
    return density_integral(lambda a, b: a * b / (a + b), d, p) / 2


def assert_within(value, exact, *, absolute, relative):
    error = abs(mp.mpf(value) - exact)
    assert error <= absolute
    assert error <= relative * exact


@pytest.mark.parametrize("p", PROBS, ids=str)
@pytest.mark.parametrize("d", DISTANCES, ids=str)
def test_information_equals_integral_of_log_density(d, p):
    d2 = torch.tensor(d, dtype=torch.float64).square()
    exact = exact_information(d, p)
    assert_within(mutual_information(d2, p).item(), exact, absolute=1e-13, relative=1e-8)
    table = mutual_information_table(p)(d2)[0]
    assert_within(table.item(), exact, absolute=1e-13, relative=1e-8)


@pytest.mark.parametrize("p", [1e-6, 0.25, 1 - 1e-6], ids=str)
@pytest.mark.parametrize("d", [1e-6, 0.1, 5.25, 19.9], ids=str)
def test_derivative_equals_integral_of_posterior_variance(d, p):
    d2 = torch.tensor(d, dtype=torch.float64).square()
    exact = exact_derivative(d, p)
    assert_within(mutual_information_grad(d2, p).item(), exact, absolute=1e-15, relative=1e-12)
    slope = mutual_information_table(p)(d2)[1]
    assert_within(slope.item(), exact, absolute=1e-14, relative=1e-11)


@pytest.mark.parametrize("p", [1e-6, 0.05, 0.5, 0.9, 1 - 1e-6], ids=str)
def test_table_equals_quadrature_between_its_nodes(p):
    d = torch.cat([torch.linspace(0, 21, 2000), torch.logspace(-6, 0, 50)]).to(torch.float64)
    value, slope = mutual_information_table(p)(d.square())
    torch.testing.assert_close(value, mutual_information(d.square(), p), rtol=3e-14, atol=0)
    torch.testing.assert_close(
        slope, mutual_information_grad(d.square(), p), rtol=1e-13, atol=1e-22
    )


@pytest.mark.parametrize("p", [0.0, 1.0], ids=str)
@pytest.mark.parametrize("route", [mutual_information, tabulated_mutual_information])
def test_information_is_zero_without_choice(route, p):
    d2 = torch.tensor([0.0, 1e-12, 1.0, 390.0, 1e16], dtype=torch.float64)
    assert (route(d2, p) == 0).all()


@pytest.mark.parametrize("p", [1e-6, 0.25, 0.5], ids=str)
@pytest.mark.parametrize("route", [mutual_information, tabulated_mutual_information])
def test_information_limits(route, p):
    entropy = -p * math.log(p) - (1 - p) * math.log1p(-p)
    value = route(torch.tensor([0.0, 400.0, 1e16, math.inf], dtype=torch.float64), p)
    assert value[0] == 0
    torch.testing.assert_close(value[1:], torch.full_like(value[1:], entropy), rtol=1e-15, atol=0)


@pytest.mark.parametrize("p", [1e-6, 0.25], ids=str)
def test_information_is_symmetric_in_p(p):
    d2 = torch.tensor([0.1, 2.0, 30.0, 200.0], dtype=torch.float64)
    mirrored = 1 - (1 - p)  # the probability whose complement is exactly 1 - p
    torch.testing.assert_close(
        mutual_information(d2, mirrored), mutual_information(d2, 1 - p), rtol=1e-12, atol=0
    )


def test_gradient_is_the_derivative():
    d2 = torch.tensor([1e-3, 0.7, 1.3, 9.0, 90.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: tabulated_mutual_information(x, 0.3), d2, eps=1e-5, atol=1e-9
    )


def test_gradient_is_finite_everywhere():
    d2 = torch.tensor([0.0, 1e-300, 400.0, 1e300, math.inf], dtype=torch.float64)
    value = tabulated_mutual_information(d2.requires_grad_(), 0.25)
    (grad,) = torch.autograd.grad(value.sum(), d2)
    torch.testing.assert_close(grad[:2], torch.full_like(grad[:2], 3 / 32), rtol=1e-13, atol=0)
    assert (grad[2:] == 0).all()


@pytest.mark.parametrize("distinct", [3, 40], ids=["tables", "quadrature"])
def test_each_block_has_its_own_probability(distinct):
    p = torch.linspace(0, 1, distinct, dtype=torch.float64).repeat(2)
    d2 = torch.linspace(0, 50, 2 * distinct, dtype=torch.float64, requires_grad=True)
    value = tabulated_mutual_information(d2, p)
    torch.testing.assert_close(value, mutual_information(d2.detach(), p), rtol=1e-13, atol=0)
    (grad,) = torch.autograd.grad(value.sum(), d2)
    torch.testing.assert_close(
        grad, mutual_information_grad(d2.detach(), p), rtol=1e-12, atol=1e-20
    )


def test_probabilities_broadcast_and_gradients_sum_back():
    d2 = torch.tensor([[1.0], [4.0]], dtype=torch.float64, requires_grad=True)
    p = torch.tensor([0.2, 0.6, 0.9])
    value = tabulated_mutual_information(d2, p)
    assert value.shape == (2, 3)
    (grad,) = torch.autograd.grad(value.sum(), d2)
    expected = mutual_information_grad(d2.detach(), p.double()).sum(-1, keepdim=True)
    torch.testing.assert_close(grad, expected, rtol=1e-12, atol=0)


def test_many_blocks_are_looked_up_in_pieces():
    d2 = torch.linspace(0, 420, 70_000, dtype=torch.float64).reshape(700, 100)
    value, slope = mutual_information_table(0.25)(d2)
    piece_value, piece_slope = mutual_information_table(0.25)(d2[650:])
    assert torch.equal(value[650:], piece_value)
    assert torch.equal(slope[650:], piece_slope)


@pytest.mark.parametrize("route", [mutual_information, tabulated_mutual_information])
def test_nan_stays_nan(route):
    value = route(torch.tensor([math.nan, 1.0], dtype=torch.float64), 0.25)
    assert value.isnan().tolist() == [True, False]


def test_look_up_never_reads_values_on_the_host():
    # A tensor without storage raises wherever its values are asked for.
    d2 = torch.empty(5, dtype=torch.float64, device="meta", requires_grad=True)
    tabulated_mutual_information(d2, 0.25).sum().backward()
    assert d2.grad.shape == (5,)


def test_table_is_made_once():
    assert mutual_information_table(0.125) is mutual_information_table(0.125)


def test_binary_entropy_is_accurate_near_zero():
    p = torch.tensor([0.0, 1e-12, 0.5, 1.0], dtype=torch.float64)
    exact = [0.0, 1e-12 * (1 - math.log(1e-12)), math.log(2), 0.0]
    torch.testing.assert_close(
        binary_entropy(p), torch.tensor(exact, dtype=torch.float64), rtol=1e-12, atol=0
    )


def test_float32_distances_are_refused():
    with pytest.raises(TypeError, match=r"Expected d2 of dtype torch.float64, got torch.float32."):
        tabulated_mutual_information(torch.ones(2), 0.25)


@pytest.mark.parametrize("p", [-0.1, 1.1], ids=str)
def test_probability_outside_unit_interval_is_refused(p):
    with pytest.raises(ValueError, match=rf"Expected p in \[0, 1\], got {p}."):
        tabulated_mutual_information(torch.ones(2, dtype=torch.float64), p)
