"""Sequences from a CSV file: what is read, in which order, and what is refused with its row."""

from __future__ import annotations

import numpy as np
import pytest

from pyro_vrnn.data import read_sequences

GOOD = """sequence,a,when,b,label
s1,1,2,10,x
s2,2,1,20,y
s1,3,1,30,x
s1,4,3,40,x
"""


@pytest.fixture
def write(tmp_path):
    def call(text):
        path = tmp_path / "sequences.csv"
        path.write_text(text)
        return path

    return call


def test_rows_of_a_sequence_need_not_stand_together(write):
    data = read_sequences(write(GOOD), time="when")
    assert (data.ids, data.features, data.labels) == (("s1", "s2"), ("a", "b"), ("x", "y"))
    np.testing.assert_array_equal(data.values[0], [[3, 30], [1, 10], [4, 40]])
    np.testing.assert_array_equal(data.values[1], [[2, 20]])


def test_without_times_the_files_order_counts(write):
    data = read_sequences(write(GOOD))
    assert data.features == ("a", "when", "b")
    np.testing.assert_array_equal(data.values[0][:, 0], [1, 3, 4])


@pytest.mark.parametrize(
    "times",
    [("2021-01-02", "2020-12-31"), ("2021-03-28T03:00+02:00", "2021-03-28T01:30+01:00")],
    ids=["dates", "zones"],
)
def test_dates_order_the_steps(write, times):
    text = f"sequence,a,when,label\ns,2,{times[0]},x\ns,1,{times[1]},x\n"
    np.testing.assert_array_equal(
        read_sequences(write(text), time="when").values[0], [[1.0], [2.0]]
    )


def test_features_come_in_the_order_asked_for(write):
    data = read_sequences(write(GOOD), time="when", features=("b", "a"))
    np.testing.assert_array_equal(data.values[1], [[20, 2]])


def test_labels_may_be_missing_where_none_are_needed(write):
    text = "sequence,a\ns1,1\ns2,2\n"
    assert read_sequences(write(text), labelled=False).labels is None
    text = "sequence,a,label\ns1,1,\ns2,2,x\n"
    assert read_sequences(write(text), labelled=False).labels == ("", "x")


BAD = {
    "no-sequence": ("name,a,label\ns,1,x\n", {}, r"one of 'name', 'a', 'label', got 'sequence'"),
    "no-label": ("sequence,a\ns,1\n", {}, r"Expected column to be one of .*got 'label'"),
    "no-time": (GOOD, {"time": "t"}, r"Expected column to be one of .*got 't'"),
    "no-features": ("sequence,label\ns,x\n", {}, r"Expected at least one column of features"),
    "twice": ("sequence,a,a,label\ns,1,2,x\n", {}, r"Expected features of different names"),
    "nan": (GOOD.replace("30", "nan"), {}, r"column 'b', got 'nan' in row 4"),
    "text": (GOOD.replace("40", "n/a"), {}, r"column 'b', got 'n/a' in row 5"),
    "two-labels": (GOOD.replace("40,x", "40,y"), {}, r"got 'x' and, in row 5.*'y' for 's1'"),
    "empty-label": (GOOD.replace("20,y", "20,"), {}, r"a label in column 'label'.*row 3"),
    "empty-name": (GOOD.replace("s2", " "), {}, r"name of a sequence.*empty cell in row 3"),
    "time-twice": (
        GOOD.replace("3,1,30", "3,2,30"),
        {"time": "when"},
        r"'2' again for 's1'.*row 4",
    ),
    "time-text": (
        GOOD.replace("3,1,30", "3,now,30"),
        {"time": "when"},
        r"ISO date.*'now' in row 4",
    ),
    "other-features": (GOOD, {"features": ("a", "b")}, r"the 2 features 'a', 'b', got 3:"),
    "header-alone": ("sequence,a,label\n", {}, r"Expected rows below the header, got none"),
}


@pytest.mark.parametrize(("text", "options", "message"), BAD.values(), ids=BAD)
def test_bad_files(write, text, options, message):
    with pytest.raises(ValueError, match=message):
        read_sequences(write(text), **options)
