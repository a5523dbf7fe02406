import re

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray
from pyro.infer.autoguide import AutoNormal

import pyro_vrnn as vrnn
from pyro_vrnn import scores
from pyro_vrnn.diagnostics import check_forecasts, concat_runs
from pyro_vrnn.infer import Prediction

Z = 4.26
IS_0 = int(az.__version__.split(".")[0]) < 1


def container(groups):
    """Return an ArviZ object of these groups, of the version that is installed."""
    if IS_0:
        return az.InferenceData(**groups)
    return xarray.DataTree.from_dict(groups)


def exported(draws, y, group="posterior_predictive", observed="observed_data"):
    dims = ("chain", "draw", "origin", "step")
    halves = draws.reshape(2, -1, *draws.shape[1:])  # two chains
    return container(
        {
            group: xarray.Dataset({"obs": (dims, halves), "loc": (dims, 0 * halves)}),
            observed: xarray.Dataset({"obs": (dims[2:], y)}),
        }
    )


@pytest.fixture
def calibrated():
    rng = np.random.default_rng(0)
    return rng.normal(size=(50, 40, 3)), rng.normal(size=(40, 3))


@pytest.mark.parametrize(
    ("shift", "scale"), [(0, 0.6), (0, 1.7), (0.7, 1)], ids=["over", "under", "bias"]
)
def test_other_forecasters_fall_outside(calibrated, shift, scale):
    draws, y = calibrated
    check = check_forecasts(shift + scale * draws, y)
    assert not check.inside
    assert check_forecasts(draws, y).inside


def test_fields_are_the_scores(calibrated):
    draws, y = calibrated
    check = check_forecasts(draws, y, levels=(0.8,), seed=3)
    u = scores.pit(y, draws, seed=3)
    np.testing.assert_array_equal(check.pit, u)
    assert check.band.num_values == scores.effective_size(u)
    np.testing.assert_allclose(check.crps.mean, scores.crps(y, draws).mean(axis=0), rtol=1e-12)
    lower, upper = scores.central_interval(draws, 0.8)
    part = check.intervals[0.8]
    hits, width = scores.pit_coverage(u, 0.8), scores.width(lower, upper)
    expected = scores.interval_score(y, lower, upper, 0.8)
    np.testing.assert_allclose(part.coverage.mean, hits.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(part.width.mean, width.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(part.score.mean, expected.mean(axis=0), rtol=1e-12)
    curve = scores.coverage_curve(u, seed=3)
    np.testing.assert_array_equal(check.coverage.coverage, curve.coverage)
    assert check.num_samples == 50
    own = scores.ecdf_band(40)
    assert check.pit_inside.tolist() == [own.contains(u[:, h]) for h in range(3)]


@pytest.mark.parametrize(
    "draw",
    [lambda rng, *shape: rng.normal(size=shape), lambda rng, *shape: rng.poisson(0.5, size=shape)],
    ids=["normal", "counts"],
)
@pytest.mark.parametrize("level", [0.5, 0.9], ids=str)
def test_coverage_of_a_calibrated_forecaster_is_the_level_with_few_draws(draw, level):
    rng = np.random.default_rng(7)
    draws, y = draw(rng, 20, 1_500, 2), draw(rng, 1_500, 2)
    check = check_forecasts(draws, y, levels=(level,))
    error = np.sqrt(level * (1 - level) / y.size)
    got = check.intervals[level].coverage
    assert abs(got.overall.mean - level) < Z * error
    assert (abs(got.mean - level) < Z * error * np.sqrt(2)).all()
    # Intervals between quantiles of 20 draws do not: too few of the normals, too many ties.
    old = scores.coverage(y, *scores.central_interval(draws, level)).mean()
    assert abs(old - level) > Z * error
    at = check.coverage.levels.tolist().index(level)
    assert check.coverage.coverage[at] == pytest.approx(got.overall.mean, abs=1e-12)


def test_a_bias_at_one_horizon_is_found_there(calibrated):
    draws, y = calibrated
    wrong = draws + np.array([0.0, 1.5, 0.0])
    assert check_forecasts(wrong, y).pit_inside.tolist() == [True, False, True]


# S = R = H: exchanged axes would fit too.
def test_axes_of_a_cube():
    draws = np.broadcast_to(np.arange(6.0)[:, None, None], (6, 6, 6))
    y = np.tile(np.arange(6.0), (6, 1))  # by horizon
    got = check_forecasts(draws, y, levels=())
    middles = (np.arange(6) + 1) / 7
    np.testing.assert_allclose(got.pit.mean(axis=0), middles, rtol=0, atol=1 / 7)
    assert (np.diff(got.pit.mean(axis=0)) > 0).all()


def test_blocks_of_origins_are_the_units(calibrated):
    draws, y = calibrated
    twice = check_forecasts(
        np.repeat(draws, 2, axis=1), np.repeat(y, 2, axis=0), origins_per_block=2
    )
    once = check_forecasts(draws, y)
    assert twice.band.num_values <= 120
    np.testing.assert_allclose(twice.crps.upper, once.crps.upper, rtol=1e-12)


@pytest.mark.parametrize(
    ("group", "observed"),
    [
        ("posterior_predictive", "observed_data"),
        ("prior_predictive", "observed_data"),
        ("predictions", "predictions_constant_data"),
    ],
    ids=lambda name: name,
)
def test_arviz_objects_give_what_their_arrays_give(calibrated, group, observed):
    draws, y = calibrated
    check = check_forecasts(exported(draws, y, group, observed), group=group)
    np.testing.assert_array_equal(check.pit, check_forecasts(draws, y).pit)
    other = check_forecasts(exported(draws, y, group, observed), y + 1, group=group)
    np.testing.assert_array_equal(other.pit, check_forecasts(draws, y + 1).pit)


def test_a_sample_dim_in_place_of_chains(calibrated):
    draws, y = calibrated
    made = container(
        {
            "posterior_predictive": xarray.Dataset(
                {"obs": (("origin", "step", "sample"), np.moveaxis(draws, 0, -1))}
            ),
            "observed_data": xarray.Dataset({"obs": (("origin", "step"), y)}),
        }
    )
    np.testing.assert_array_equal(check_forecasts(made).pit, check_forecasts(draws, y).pit)


@pytest.fixture
def regression():
    torch.manual_seed(0)
    model = vrnn.models.SequenceRegression(vrnn.nn.GRU(2, 3), 2)
    guide = vrnn.infer.AutoSpikeAndSlab(model, scale=0.1)
    x, y = torch.randn(8, 4, 2), torch.randn(8, 2)
    guide(x, y)
    return model, guide, x, y


def test_predictions_and_exports_of_a_model(regression):
    model, guide, x, y = regression
    predicted = vrnn.infer.predict(
        model, guide, x, num_samples=20, return_draws="observation", seed=1, progress=False
    )
    check = check_forecasts(predicted, y)
    np.testing.assert_array_equal(check.pit, check_forecasts(predicted.draws.numpy(), y).pit)
    data = vrnn.from_pyro_svi(model, guide, model_args=(x, y), num_samples=20)
    assert check_forecasts(data).pit.shape == (8, 2)


def test_one_value_for_each_forecast_is_one_horizon(calibrated):
    draws, y = calibrated
    single = check_forecasts(draws[..., 0], y[:, 0])
    np.testing.assert_array_equal(single.pit, check_forecasts(draws[..., :1], y[:, :1]).pit)
    assert single.band.num_values == 40
    assert str(single).splitlines()[-1].split()[0] == "1"  # no row of all horizons beside it


def test_table_has_a_row_for_each_horizon_and_one_of_all(calibrated):
    draws, y = calibrated
    check = check_forecasts(draws, 2 * y, levels=(0.5, 0.9))
    lines = str(check).splitlines()
    assert lines[0] == (
        "40 forecasts of 3 step(s), 50 draws; ranges of 95% over blocks of 1 origin(s)"
    )
    assert lines[1].startswith("PIT: outside its band (worth ")
    assert [line.split()[0] for line in lines[4:]] == ["step", "1", "2", "3", "all"]
    crps = check.crps.overall
    assert f"{crps.mean:.3g} [{crps.lower:.3g}, {crps.upper:.3g}]" in lines[-1]
    assert len({len(line) for line in lines[4:]}) == 1


@pytest.mark.parametrize(
    ("draws", "y", "options", "error", "message"),
    [
        (np.ones((3, 4)), None, {}, TypeError, "Expected y, the observations, beside draws that"),
        (
            np.ones((3, 4, 2)),
            np.ones((2, 4)),
            {},
            ValueError,
            "draws of shape (S, *y.shape), got (2, 4) and (3, 4, 2).",
        ),
        (np.ones((3, 4)), np.ones((3, 4)), {}, ValueError, "got (3, 4) and (3, 4)."),
        (np.ones((1, 4, 2)), np.ones((4, 2)), {}, ValueError, "Expected at least 2 draws, got 1."),
        (np.ones((3, 1, 2)), np.ones((1, 2)), {}, ValueError, "Expected at least 2 blocks, got 1."),
        (np.ones((3, 4)), [1, np.nan, 1, 1], {}, ValueError, "Expected y to be finite, got nan at"),
        (
            np.ones((3, 4)),
            np.ones(4),
            {"origins_per_block": 3},
            ValueError,
            "Expected a number of origins that 3 (origins_per_block) divides, got 4.",
        ),
        (
            np.ones((3, 4)),
            np.ones(4),
            {"levels": [2]},
            ValueError,
            "Expected level in (0, 1), got 2",
        ),
    ],
    ids=["no-y", "shape", "axes", "one-draw", "one-block", "nan", "blocks", "level"],
)
def test_forecasts_refuse(draws, y, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        check_forecasts(draws, y, **options)


def test_prediction_without_draws_is_refused(regression):
    model, guide, x, y = regression
    predicted = vrnn.infer.predict(model, guide, x, num_samples=2, progress=False)
    with pytest.raises(ValueError, match=r'got none: predict with return_draws="observation"\.'):
        check_forecasts(predicted, y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group": "posterior"}, r"Expected group to be one of 'posterior_predictive', 'prior_pre"),
        ({"group": "predictions"}, r"Expected a group 'predictions' in the ArviZ object, got post"),
        ({"var_name": "z"}, r"Expected a variable 'z' in posterior_predictive, got obs, loc\."),
        ({"var_name": "loc"}, r"Expected a variable 'loc' in observed_data, got obs\."),
    ],
    ids=["kind", "group", "variable", "observed"],
)
def test_arviz_objects_without_the_variable_are_refused(calibrated, options, message):
    with pytest.raises(ValueError, match=message):
        check_forecasts(exported(*calibrated), **options)


def test_a_prediction_of_classes_is_sent_to_the_other_check():
    predicted = Prediction(num_samples=3, seed=0, strategy="loop", probs=torch.ones(4, 2) / 2)
    with pytest.raises(ValueError, match=r"Expected a Prediction of numbers, .*use check_classes"):
        check_forecasts(predicted, np.zeros((4, 1)))


CLASSES = r"Expected 'obs' to hold numbers, got ids of classes or words: use check_classes\."


def classification():
    torch.manual_seed(0)
    model = vrnn.models.SequenceClassification(vrnn.nn.GRU(2, 3), 4)
    return model, (torch.randn(8, 4, 2), torch.arange(8) % 4)


def language():
    torch.manual_seed(0)
    model = vrnn.models.LanguageModel(9, 4, 4)
    return model, (torch.arange(40).reshape(8, 5) % 9, torch.arange(1, 41).reshape(8, 5) % 9)


@pytest.mark.parametrize("make", [classification, language], ids=["classes", "words"])
def test_exports_of_ids_are_sent_to_the_other_check(make):
    model, args = make()
    guide = vrnn.infer.AutoSpikeAndSlab(model, scale=0.1)
    data = vrnn.from_pyro_svi(model, guide, model_args=args, num_samples=3)
    with pytest.raises(ValueError, match=CLASSES):
        check_forecasts(data)
    with pytest.raises(ValueError, match=CLASSES):
        check_forecasts(concat_runs([data, data]), args[1])


@pytest.mark.parametrize("name", ["logits", "probs"])
def test_ids_of_other_exports_are_told_by_their_probabilities(name):
    draws, y = np.ones((2, 3, 8, 5), int), np.ones((8, 5), int)
    dims = ("chain", "draw", "origin", "step")
    variables = {"obs": (dims, draws), name: ((*dims, "class"), np.zeros((*draws.shape, 9)))}
    made = {"observed_data": xarray.Dataset({"obs": (dims[2:], y)})}
    with pytest.raises(ValueError, match=CLASSES):
        check_forecasts(container({"posterior_predictive": xarray.Dataset(variables), **made}))
    variables[name] = (dims, np.zeros(draws.shape))  # of counts, say: one for each
    check_forecasts(container({"posterior_predictive": xarray.Dataset(variables), **made}))


def counts(x, y=None):
    rate = pyro.sample("rate", dist.LogNormal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("obs", dist.Poisson(rate * x), obs=y)


def test_exports_of_counts_are_checked():
    args = torch.ones(8), torch.arange(8.0)
    guide = AutoNormal(counts)
    data = vrnn.from_pyro_svi(counts, guide, model_args=args, num_samples=5)
    assert "class_sites" not in data.attrs
    assert check_forecasts(data).pit.shape == (8, 1)
