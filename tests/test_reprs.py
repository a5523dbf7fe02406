"""Results are written on one line, and no result that holds arrays prints them."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re
from collections import namedtuple

import numpy as np
import pytest
import torch

import pyro_vrnn
from pyro_vrnn.diagnostics import check_forecasts
from pyro_vrnn.infer import Prediction
from pyro_vrnn.reprs import short_repr, value_text

MODULES = sorted(m.name for m in pkgutil.walk_packages(pyro_vrnn.__path__, "pyro_vrnn."))
PUBLIC = [name for name in MODULES if not any(part.startswith("_") for part in name.split("."))]
ARRAYS = re.compile(r"Tensor|Array")  # in an annotation: FloatArray and NDArray too


def results():
    """Return the public dataclasses with a field of arrays that is in the repr."""
    found = []
    for name in PUBLIC:
        for each in vars(importlib.import_module(name)).values():
            if not (isinstance(each, type) and dataclasses.is_dataclass(each)):
                continue
            if each.__module__ != name or each.__name__.startswith("_"):
                continue
            if any(field.repr and ARRAYS.search(str(field.type)) for field in _fields(each)):
                found.append(each)
    return found


def _fields(each):
    return dataclasses.fields(each)


# What ops and nn hand to each other is seen by nobody.
RESULTS = [c for c in results() if c.__module__.split(".")[1] not in ("ops", "nn")]


def test_results_are_found():
    assert {"LanguageScores", "Prediction", "SiteUncertainty"} <= {c.__name__ for c in RESULTS}


@pytest.mark.parametrize("each", RESULTS, ids=lambda c: f"{c.__module__[10:]}.{c.__name__}")
def test_results_with_arrays_have_the_short_repr(each):
    assert each.__repr__ is short_repr


Range = namedtuple("Range", "mean lower")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.zeros((2, 3)), "ndarray(2, 3)"),
        (np.float64(0.1234567), "0.123457"),
        (torch.tensor(3), "3"),
        (torch.nn.Parameter(torch.zeros(2)), "Parameter(2,)"),
        (Range(1.0, 0.51234567), "Range(1, 0.512346)"),
        ([torch.zeros(3)] * 2, "list of 2"),
        ({}, "{}"),
        ((), "()"),
        ("", "''"),
        (True, "True"),
        (torch.nn.Sequential(torch.nn.Linear(1, 1)), "Sequential"),
    ],
    ids=lambda value: None,
)
def test_values(value, text):
    assert value_text(value) == text


def test_a_prediction_names_what_it_holds():
    made = Prediction(num_samples=3, seed=0, strategy="loop", probs=torch.ones(400, 20) / 20)
    expected = "Prediction(num_samples=3, seed=0, strategy='loop', probs=Tensor(400, 20), "
    assert repr(made) == expected + "quantile_levels=())"


def test_a_check_is_short_and_its_table_is_another_thing():
    rng = np.random.default_rng(0)
    check = check_forecasts(rng.normal(size=(9, 30, 4)), rng.normal(size=(30, 4)))
    text = repr(check)
    assert "\n" not in text
    assert len(text) < 300
    assert "pit=ndarray(30, 4), band=EcdfBand(...)" in text
    assert "num_samples=9" in text
    assert str(check).count("\n") > 5
