import math
import re

import numpy as np
import pytest
import torch

import pyro_vrnn as vrnn
from pyro_vrnn import scores
from pyro_vrnn.diagnostics import check_classes


def observe(rng, probs):
    """Draw a class with each set of probabilities."""
    return (rng.random((*probs.shape[:-1], 1)) > probs.cumsum(axis=-1)).sum(axis=-1)


def sharpened(probs, power):
    powers = probs**power
    return powers / powers.sum(axis=-1, keepdims=True)


@pytest.fixture
def calibrated():
    rng = np.random.default_rng(0)
    probs = rng.dirichlet([1.0, 1.0, 1.0], size=800)
    return probs, observe(rng, probs)


def test_calibrated_probabilities_show_the_error_of_chance_and_sharpened_ones_more(calibrated):
    probs, y = calibrated
    good, bad = check_classes(probs, y), check_classes(sharpened(probs, 3), y)
    assert good.error.ece < good.error.ece_upper_if_calibrated
    assert bad.error.ece > bad.error.ece_upper_if_calibrated
    assert bad.accuracy == good.accuracy
    assert bad.nll.lower > good.nll.upper


def test_fields_are_the_scores(calibrated):
    probs, y = calibrated
    check = check_classes(probs, y, num_bins=6, binning="width", seed=2)
    p, correct = scores.top_class(y, probs)
    for got, values in (
        (check.accuracy, correct),
        (check.nll, scores.class_nll(y, probs)),
        (check.brier, scores.brier_score(y, probs)),
    ):
        assert got == scores.block_bootstrap(values[:, None], seed=2)
    options = {"num_bins": 6, "binning": "width"}
    assert check.error == scores.calibration_error(p, correct, **options, seed=2)
    expected = scores.reliability(p, correct, **options)
    np.testing.assert_array_equal(check.reliability.frequency, expected.frequency)
    assert (check.num_events, check.num_samples) == (800, None)


def test_draws_are_averaged_as_probabilities():
    rng = np.random.default_rng(1)
    draws, y = rng.dirichlet([0.3, 0.3], size=(5, 30)), rng.integers(2, size=30)
    check = check_classes(draws, y)
    assert check.num_samples == 5
    assert check.nll == check_classes(draws.mean(axis=0), y).nll


def test_padding_is_left_out_and_sequences_are_the_units():
    rng = np.random.default_rng(2)
    probs = rng.dirichlet([0.5] * 4, size=(60, 7))  # (N, T, V)
    y = observe(rng, probs)
    mask = np.arange(7) < rng.integers(1, 8, size=(60, 1))
    check = check_classes(probs, np.where(mask, y, -100), mask=torch.as_tensor(mask))
    assert check.num_events == mask.sum() == check.reliability.count.sum()
    values = scores.class_nll(y, probs)
    assert check.nll == scores.block_bootstrap(values, mask=mask)
    p, correct = scores.top_class(y[mask], probs[mask])
    assert check.error == scores.calibration_error(p, correct)


def test_an_observed_class_of_probability_zero_makes_the_nll_infinite():
    check = check_classes([[1.0, 0.0], [0.5, 0.5]], [1, 0])
    assert check.nll == (math.inf, math.inf, math.inf)
    assert math.isfinite(check.brier.mean)


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    model = vrnn.models.SequenceClassification(vrnn.nn.GRU(2, 3), num_classes=3)
    guide = vrnn.infer.AutoSpikeAndSlab(model, scale=0.3)
    x, y = torch.randn(9, 4, 2), torch.randint(3, (9,))
    guide(x, y)
    return model, guide, x, y


def test_predictions_of_classes(classifier):
    model, guide, x, y = classifier
    predicted = vrnn.infer.predict(model, guide, x, num_samples=20, seed=1, progress=False)
    check = check_classes(predicted, y)
    assert check.num_samples == 20
    assert check.nll == check_classes(predicted.probs.numpy(), y.numpy()).nll


def test_exports_average_softmax_over_draws(classifier):
    model, guide, x, y = classifier
    data = vrnn.from_pyro_svi(model, guide, model_args=(x, y), num_samples=20)
    check = check_classes(data)
    logits = torch.as_tensor(data["posterior_predictive"]["logits"].values[0]).double()
    expected = check_classes(logits.softmax(-1), y)
    assert check.num_samples == 20
    np.testing.assert_allclose(check.nll, expected.nll, rtol=1e-12)
    assert check.accuracy == expected.accuracy


def test_table(calibrated):
    check = check_classes(*calibrated, num_bins=4)
    lines = str(check).splitlines()
    assert lines[0] == "800 events; ranges of 95%"
    a, error = check.accuracy, check.error
    assert lines[1] == f" accuracy  {a.mean:.4g} [{a.lower:.4g}, {a.upper:.4g}]"
    assert f"ECE  {error.ece:.4g}; of a calibrated model {error.ece_if_calibrated:.4g}" in lines[4]
    assert len(lines) == 8 + 4
    assert lines[-1].split()[-1] == str(check.reliability.count[-1])


@pytest.mark.parametrize(
    ("probs", "y", "options", "error", "message"),
    [
        ([[0.5, 0.5]] * 2, None, {}, TypeError, "Expected y, the observations, beside draws that"),
        ([[0.5, 0.5]] * 2, [0.0, 1.0], {}, TypeError, "Expected y of an integer dtype (class ids)"),
        ([[0.5, 0.5]] * 2, [0, 2], {}, ValueError, "Expected y in 0..1, got 2."),
        ([[0.5, 0.5]], [0], {}, ValueError, "Expected at least 2 blocks, got 1."),
        (
            [[0.5, 0.5]] * 2,
            [0, 1],
            {"mask": [1, 1]},
            TypeError,
            "Expected mask of dtype bool, got int64.",
        ),
        (
            [[0.5, 0.5]] * 2,
            [0, 1],
            {"mask": [True]},
            ValueError,
            "Expected mask of shape (2,), got (1,).",
        ),
        (
            [[0.5, 0.5]] * 2,
            [0, 1],
            {"mask": [True, False]},
            ValueError,
            "Expected mask to keep a value of each block, got none of block 1.",
        ),
    ],
    ids=["no-y", "floats", "no-class", "one-sequence", "mask-dtype", "mask-shape", "mask-empty"],
)
def test_classes_refuse(probs, y, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        check_classes(probs, y, **options)


def test_prediction_without_classes_is_refused():
    model = vrnn.models.SequenceRegression(vrnn.nn.GRU(2, 3), 1)
    guide = vrnn.infer.AutoSpikeAndSlab(model)
    x = torch.zeros(2, 3, 2)
    guide(x, torch.zeros(2, 1))
    predicted = vrnn.infer.predict(model, guide, x, num_samples=2, progress=False)
    with pytest.raises(ValueError, match=r"Expected a Prediction of classes, got one without pro"):
        check_classes(predicted, [0, 1])
