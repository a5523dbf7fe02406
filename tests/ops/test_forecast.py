"""The arithmetic of a forecast; by hand, and against itself in other units."""

from __future__ import annotations

import pytest
import torch

from pyro_vrnn.ops.forecast import base, changes, check_windows, min_window, standard_units

CPU = torch.device("cpu")


def test_changes_of_the_series_alone():
    x = torch.tensor([[1.0, 7.0], [2.0, 8.0], [4.0, 9.0], [8.0, 6.0]])
    assert changes(x, 1).tolist() == [[1.0, 8.0], [2.0, 9.0], [4.0, 6.0]]
    assert changes(x, None) is x


@pytest.mark.parametrize(("lag", "fewest"), [(None, 1), (3, 4)])
def test_min_window(lag, fewest):
    assert min_window(lag) == fewest


@pytest.mark.parametrize(("lengths", "expected"), [(None, [[33.0, 34.0]]), ([5], [[22.0, 30.0]])])
def test_base_by_hand(lengths, expected):
    x = torch.tensor([10.0, 11.0, 12.0, 20.0, 21.0, 25.0]).reshape(1, 6, 1)
    lengths = None if lengths is None else torch.tensor(lengths)
    assert base(x, lengths, lag=3, horizon=2, center=torch.zeros(1)).tolist() == expected


def test_base_without_a_lag_is_the_mean():
    x = torch.zeros(2, 6, 1)
    assert (
        base(x, None, lag=None, horizon=3, center=torch.tensor([5.0])).tolist() == [[5.0] * 3] * 2
    )


def test_units_are_taken_in_float64():
    """At a level of 1e8, float32 would lose the changes."""
    values = 1e8 + torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    center, scale = standard_units(values, 1, 1, CPU)
    assert center.item() == pytest.approx(0.2)
    assert scale.item() == pytest.approx(1.2**0.5)


def test_unit_of_a_line():
    center, scale = standard_units(torch.arange(9.0), 2, 1, CPU)
    assert (center.item(), scale.item()) == (2.0, 1.0)


def test_refuses():
    with pytest.raises(ValueError, match=r"Expected over 4 values, got 4\."):
        standard_units(torch.zeros(4), 3, 1, CPU)
    with pytest.raises(ValueError, match=r"Expected values to be finite, got nan at index \(1, 0"):
        standard_units(torch.tensor([0.0, torch.nan, 1.0]), None, 1, CPU)
    with pytest.raises(ValueError, match=r"Expected windows of at least 4 steps \(lag 3\), got 2 "):
        check_windows(torch.zeros(2, 6, 1), torch.tensor([6, 2]), 3)
