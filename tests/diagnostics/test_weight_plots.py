"""Maps of a weight matrix and the forest of site norms: the artists hold the numbers."""

from __future__ import annotations

import re

import matplotlib as mpl
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

import pyro_vrnn as vrnn
from pyro_vrnn.diagnostics import SiteNorms, plot_site_norms, plot_weight_map, site_norms
from pyro_vrnn.distributions import BlockDropout, MultiplicativeNormal, SpikeAndSlab

mpl.use("Agg")
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

Z = 4.26
LOC = torch.arange(1.0, 13.0).reshape(4, 3) * torch.tensor([1.0, -1.0, 1.0])
DROP = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])


@pytest.fixture
def ax():
    return Figure().add_subplot()


def image(ax):
    (found,) = ax.images
    return np.asarray(found.get_array())


def test_signal_to_noise_of_each_weight(ax):
    scale = torch.linspace(0.1, 2.0, 12).reshape(4, 3)
    q = SpikeAndSlab(LOC, scale, 0.25, block_shape=(4, 1))
    assert plot_weight_map(q, ax=ax) is ax
    np.testing.assert_allclose(image(ax), (LOC.abs() / scale).numpy(), rtol=1e-6)
    assert isinstance(ax.images[0].norm, LogNorm)
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("input", "output", "|m| / σ")
    assert len(ax.figure.axes) == 2  # with a colorbar


def test_distance_of_each_block_is_over_all_of_it(ax):
    q = SpikeAndSlab(LOC, 0.5, 0.25, block_shape=(2, 1))
    plot_weight_map(q, what="distance", colorbar=False, ax=ax)
    top, bottom = ((LOC[rows] / 0.5).square().sum(0).sqrt().numpy() for rows in ([0, 1], [2, 3]))
    np.testing.assert_allclose(image(ax), [top, top, bottom, bottom], rtol=1e-6)
    assert len(ax.figure.axes) == 1


@pytest.mark.parametrize("make", [lambda p: SpikeAndSlab(LOC, 0.1, p, block_shape=(2, 1)),
                                  lambda p: BlockDropout(LOC, p, block_shape=(2, 1))],
                         ids=["noise", "limit"])  # fmt: skip
def test_drop_probability_of_each_block(ax, make):
    plot_weight_map(make(DROP), what="drop_prob", ax=ax)
    np.testing.assert_allclose(image(ax), DROP.repeat_interleave(2, 0).numpy(), rtol=1e-6)
    assert ax.images[0].get_clim() == (0, 1)


def test_one_drop_probability_for_all(ax):
    plot_weight_map(SpikeAndSlab(LOC, 0.1, 0.25, block_shape=(4, 1)), what="drop_prob", ax=ax)
    np.testing.assert_array_equal(image(ax), np.full((4, 3), 0.25))


def test_gates_are_parted_and_named(ax):
    q = SpikeAndSlab(torch.ones(12, 3), 0.1, 0.25, block_shape=(3, 1))
    plot_weight_map(q, gates="ifgo", ax=ax)
    assert [line.get_ydata()[0] for line in ax.lines] == [2.5, 5.5, 8.5]
    assert [t.get_text() for t in ax.get_yticklabels()] == list("ifgo")
    np.testing.assert_allclose(ax.get_yticks(), [1, 4, 7, 10])


def test_a_normal_and_a_bias(ax):
    q = dist.Normal(torch.tensor([1.0, -2.0, 0.0]), torch.tensor([0.5, 4.0, 1.0])).to_event(1)
    plot_weight_map(q, ax=ax)
    np.testing.assert_allclose(image(ax), [[2.0], [0.5], [0.01]])  # no less than 0.01


def test_the_distribution_of_a_trained_guide(ax):
    model = vrnn.models.SequenceRegression(vrnn.nn.LSTM(8, 4), 1)
    guide = vrnn.infer.AutoSpikeAndSlab(model)
    guide(torch.zeros(2, 5, 8), torch.zeros(2, 1))
    q = guide.distribution("rnn.weight_hh_l0")
    plot_weight_map(q, gates="ifgo", ax=ax)
    expected = (q.loc.abs() / 0.01).clamp(min=0.01).detach().numpy()
    np.testing.assert_allclose(image(ax), expected, rtol=1e-6)


Q = SpikeAndSlab(LOC, 0.1, 0.25, block_shape=(4, 1))


@pytest.mark.parametrize(
    ("q", "options", "error", "message"),
    [
        (3, {}, TypeError, "Expected q to be guide.distribution(name) of one of our guides, or a"),
        (dist.Normal(0.0, 1.0), {}, TypeError, "got Normal."),
        (Q, {"what": "x"}, ValueError, "Expected what to be one of 'signal_to_noise', 'distance'"),
        (Q, {"gates": "rzn"}, ValueError, "Expected rows in 3 gates of one size, got 4 rows."),
        (Q.expand([2]), {}, ValueError, "Expected q of one weight of 1 or 2 dims, got batch shape"),
        (
            BlockDropout(LOC, 0.25, block_shape=(4, 1)),
            {},
            ValueError,
            "Expected noise for 'signal_to_noise', got scale=0",
        ),
        (
            MultiplicativeNormal(LOC, 0.1, 0.3, block_shape=(4, 1)),
            {"what": "drop_prob"},
            TypeError,
            "Expected q to be a SpikeAndSlab for 'drop_prob', got MultiplicativeNormal",
        ),
        (
            dist.Normal(LOC, 1.0).to_event(2),
            {"what": "distance"},
            TypeError,
            "Expected q of blocks (BlockFactorNormal) for 'distance', got a normal.",
        ),
    ],
    ids=["int", "no event", "what", "gates", "batch", "scale=0", "multiplicative", "normal"],
)
def test_map_is_refused(ax, q, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        plot_weight_map(q, ax=ax, **options)


# Norms.


def weights(y):
    w = pyro.sample("w", dist.Normal(0.0, 2.0).expand([50, 8]).to_event(2))
    pyro.sample("b", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("obs", dist.Normal(w.sum(), 1.0), obs=y)


def guide(y):
    pyro.sample("w", dist.Normal(0.0, 0.5).expand([50, 8]).to_event(2))
    pyro.sample("b", dist.Normal(4.0, 1e-3).expand([3]).to_event(1))


def test_norms_are_those_of_posterior_and_prior():
    norms = site_norms(weights, guide, model_args=(torch.zeros(2),), num_samples=50)
    assert norms.num_weights == {"w": 400, "b": 3}
    for scale, draws in ((2.0, norms.prior["w"]), (0.5, norms.posterior["w"])):
        # ||w||^2 / s^2 is chi-square of 400: variance 800.
        squares = (draws / scale) ** 2
        assert abs(squares.mean() - 400) < Z * (800 / 50) ** 0.5
    np.testing.assert_allclose(norms.posterior["b"], 4 * 3**0.5, rtol=1e-2)
    scaled = norms.root_mean_squares()
    np.testing.assert_allclose(scaled.posterior["w"], norms.posterior["w"] / 20)
    assert abs(scaled.prior["w"].mean() - 2.0) < 0.05


def test_norms_leave_the_generators_and_follow_the_seed():
    state = torch.get_rng_state()
    one, two = (
        site_norms(weights, guide, model_args=(torch.zeros(2),), num_samples=3) for _ in "ab"
    )
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(one.posterior["w"], two.posterior["w"])


def test_norms_of_a_network_under_sequence_scope():
    model = vrnn.models.SequenceRegression(vrnn.nn.GRU(8, 4), 1)
    q = vrnn.infer.AutoSpikeAndSlab(model, scale=0, drop_prob=0.5, scope="sequence")
    norms = site_norms(
        model, q, model_args=(torch.zeros(2, 5, 8), torch.zeros(2, 1)), num_samples=5
    )
    assert list(norms.posterior) == list(q.sites)
    assert len(set(norms.posterior["rnn.weight_hh_l0"])) > 1


@pytest.mark.parametrize("rms", [True, False], ids=["rms", "norm"])
def test_forest_holds_medians_and_intervals(ax, rms):
    draws = np.arange(1.0, 102.0)
    norms = SiteNorms({"a": draws, "b": 2 * draws}, {"a": 3 * draws, "b": draws}, {"a": 4, "b": 1})
    assert plot_site_norms(norms, root_mean_square=rms, ax=ax) is ax
    size = 2.0 if rms else 1.0
    dots = {line.get_label(): line for line in ax.lines}
    np.testing.assert_allclose(dots["posterior"].get_xdata(), [51 / size, 102])
    np.testing.assert_allclose(dots["prior"].get_xdata(), [153 / size, 51])
    thick, thin, *_ = ax.collections
    np.testing.assert_allclose(thick.get_segments()[0][:, 0], np.array([26, 76]) / size)
    np.testing.assert_allclose(thin.get_segments()[0][:, 0], np.array([4, 98]) / size)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]
    assert ax.get_xscale() == "log"
    assert ("root mean square" in ax.get_xlabel()) is rms


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"model_args": torch.zeros(2)},
            TypeError,
            "Expected model_args to be a tuple, got Tensor.",
        ),
        ({"num_samples": 0}, ValueError, "Expected num_samples to be a positive int, got 0."),
        ({"seed": -1}, ValueError, "Expected seed to be a non-negative int, got -1."),
    ],
    ids=["args", "samples", "seed"],
)
def test_norms_are_refused(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        site_norms(weights, AutoNormal(weights), **{"model_args": (torch.zeros(2),), **options})


def test_forest_is_refused(ax):
    with pytest.raises(TypeError, match=r"Expected norms .* class SiteNorms .*, got dict"):
        plot_site_norms({}, ax=ax)
