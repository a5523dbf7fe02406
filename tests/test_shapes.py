"""Every check returns what is right and words what is wrong in one voice."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyro_vrnn import shapes

GOOD = {
    "int": (shapes.check_positive_int, 3, 3),
    "numpy-int": (shapes.check_positive_int, np.int64(3), 3),
    "float": (shapes.check_positive_float, 0.5, 0.5),
    "float-of-int": (shapes.check_positive_float, 2, 2.0),
    "numpy-float": (shapes.check_positive_float, np.float64(0.5), 0.5),
    "p-0": (shapes.check_probability, 0, 0.0),
    "p-1": (shapes.check_probability, 1.0, 1.0),
}


@pytest.mark.parametrize(("check", "value", "expected"), GOOD.values(), ids=GOOD)
def test_numbers(check, value, expected):
    result = check("v", value)
    assert result == expected
    assert type(result) is type(expected)


BAD = {
    "int-0": (shapes.check_positive_int, 0, ValueError, "Expected v to be a positive int, got 0."),
    "int-float": (shapes.check_positive_int, 2.0, TypeError, "positive int, got 2.0."),
    "int-bool": (shapes.check_positive_int, True, TypeError, "positive int, got True."),
    "int-numpy-0": (shapes.check_positive_int, np.int64(0), ValueError, "a positive int, got 0."),
    "int-numpy-float": (
        shapes.check_positive_int,
        np.float64(2),
        TypeError,
        "to be a positive int",
    ),
    "int-numpy-bool": (shapes.check_positive_int, np.bool_(True), TypeError, "be a positive int"),
    "int-None": (shapes.check_positive_int, None, TypeError, "positive int, got None."),
    "float-0": (shapes.check_positive_float, 0.0, ValueError, "v to be a positive number, got 0.0"),
    "float-nan": (shapes.check_positive_float, float("nan"), ValueError, "number, got nan."),
    "float-inf": (shapes.check_positive_float, float("inf"), ValueError, "number, got inf."),
    "float-bool": (shapes.check_positive_float, True, TypeError, "number, got True."),
    "float-text": (shapes.check_positive_float, "1", TypeError, "number, got '1'."),
    "p-low": (shapes.check_probability, -1e-9, ValueError, r"v in \[0, 1\], got -1e-09."),
    "p-high": (shapes.check_probability, 1.5, ValueError, r"Expected v in \[0, 1\], got 1.5."),
    "p-nan": (shapes.check_probability, float("nan"), ValueError, r"in \[0, 1\], got nan."),
    "p-bool": (shapes.check_probability, False, TypeError, r"number in \[0, 1\], got False."),
}


@pytest.mark.parametrize(("check", "value", "error", "message"), BAD.values(), ids=BAD)
def test_numbers_refused(check, value, error, message):
    with pytest.raises(error, match=message):
        check("v", value)


def test_choice():
    assert shapes.check_choice("gates", "tied", ("tied", "untied")) == "tied"
    with pytest.raises(ValueError, match=r"gates to be one of 'tied', 'untied', got 'both'."):
        shapes.check_choice("gates", "both", ("tied", "untied"))


TEXTS = {"()": (), "(3,)": (3,), "(N, 3)": ("N", 3), "(*, 2)": ("*", 2)}


@pytest.mark.parametrize(("text", "shape"), TEXTS.items(), ids=TEXTS)
def test_shape_text(text, shape):
    assert shapes.shape_text(shape) == text


x = torch.zeros(4, 5, 3)


@pytest.mark.parametrize("expected", [(4, 5, 3), ("N", "T", 3), ("N", 5, "D")], ids=str)
def test_shape(expected):
    assert shapes.check_shape("x", x, expected) is x


@pytest.mark.parametrize("expected", [(4, 5), (4, 5, 3, 1), ("N", "T", 2), (5, 4, 3), ()], ids=str)
def test_shape_refused(expected):
    with pytest.raises(ValueError, match=r"^Expected x of shape \(.*\), got \(4, 5, 3\)\.$"):
        shapes.check_shape("x", x, expected)


@pytest.mark.parametrize("check", [shapes.check_shape, shapes.check_last_dim])
def test_not_a_tensor(check):
    with pytest.raises(TypeError, match=r"Expected x to be a Tensor, got ndarray."):
        check("x", np.zeros(3), 3)


def test_last_dim():
    assert shapes.check_last_dim("x", x, 3) is x


@pytest.mark.parametrize("value", [x[..., :2], torch.tensor(3.0)], ids=["size", "scalar"])
def test_last_dim_refused(value):
    with pytest.raises(ValueError, match=r"Expected x of shape \(\*, 3\), got \("):
        shapes.check_last_dim("x", value, 3)


def test_dtype(device):
    value = x.to(device)
    assert shapes.check_dtype("x", value, torch.float32) is value
    with pytest.raises(
        TypeError,
        match=r"^Expected x of dtype torch.float64 \(the weights'\), got torch.float32: convert it "
        r"with x.to\(torch.float64\), or the module with .to\(torch.float32\)\.$",
    ):
        shapes.check_dtype("x", value, torch.float64)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        assert shapes.check_dtype("x", value, torch.bfloat16) is value


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_finite_names_the_first_place(bad):
    assert shapes.check_finite("x", x) is x
    value = x.clone()
    value[1, 2, 0] = bad
    value[3, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=rf"x to be finite, got {bad} at index \(1, 2, 0\)."):
        shapes.check_finite("x", value)


def test_finite_of_integers_and_scalars():
    assert shapes.check_finite("x", torch.tensor([1, 2])).tolist() == [1, 2]
    with pytest.raises(ValueError, match=r"got nan at index \(\)"):
        shapes.check_finite("x", torch.tensor(float("nan")))


LENGTHS = {
    "list": [1, 5, 3],
    "numpy": np.array([1, 5, 3]),
    "int32": torch.tensor([1, 5, 3], dtype=torch.int32),
}


@pytest.mark.parametrize("given", LENGTHS.values(), ids=LENGTHS)
def test_lengths(given, device):
    given = given.to(device) if isinstance(given, torch.Tensor) else given
    lengths = shapes.check_lengths(given, 3, 5)
    assert lengths.tolist() == [1, 5, 3]
    assert (lengths.dtype, lengths.device.type) == (torch.int64, "cpu")


BAD_LENGTHS = {
    "zero": ([0, 1, 2], ValueError, r"Expected lengths in 1..5, got 0."),
    "long": ([6, 1, 2], ValueError, r"Expected lengths in 1..5, got 6."),
    "float": ([1.0, 2.0, 3.0], TypeError, r"lengths of an integer dtype, got torch.float32."),
    "bool": ([True, True, True], TypeError, r"lengths of an integer dtype, got torch.bool."),
    "few": ([1, 2], ValueError, r"Expected lengths of shape \(3,\), got \(2,\)."),
    "scalar": (4, ValueError, r"Expected lengths of shape \(3,\), got \(\)."),
}


@pytest.mark.parametrize(("given", "error", "message"), BAD_LENGTHS.values(), ids=BAD_LENGTHS)
def test_lengths_refused(given, error, message):
    with pytest.raises(error, match=message):
        shapes.check_lengths(given, 3, 5)


def test_lengths_of_no_sequence():
    with pytest.raises(ValueError, match=r"Expected lengths of at least one sequence, got none."):
        shapes.check_lengths([], 0, 5)
