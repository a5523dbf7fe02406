import sys

import numpy as np
import pytest

from pyro_vrnn.data import Series, co2_weekly, read_csv


@pytest.fixture
def csv_file(tmp_path):
    def write(content, name="series.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_co2_is_weekly_and_its_gaps_are_counted():
    from statsmodels.datasets import co2

    series = co2_weekly()
    raw = co2.load_pandas().data["co2"].to_numpy()
    assert series.values.shape == (2284,)
    assert series.values.dtype == np.float64
    assert series.filled == 59 == np.isnan(raw).sum()
    assert np.isfinite(series.values).all()
    seen = ~np.isnan(raw)
    np.testing.assert_array_equal(series.values[seen], raw[seen])
    assert (series.labels[0], series.labels[-1]) == ("1958-03-29", "2001-12-29")


def test_co2_gap_lies_on_the_line_between_its_neighbours():
    from statsmodels.datasets import co2

    raw = co2.load_pandas().data["co2"].to_numpy()
    inside = np.isnan(raw[1:-1]) & np.isfinite(raw[:-2]) & np.isfinite(raw[2:])
    single = 1 + np.flatnonzero(inside)
    assert len(single) > 0
    expected = (raw[single - 1] + raw[single + 1]) / 2
    np.testing.assert_allclose(co2_weekly().values[single], expected, rtol=1e-14)


def test_co2_without_statsmodels_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "statsmodels.datasets", None)
    with pytest.raises(ImportError, match=r"Expected the package statsmodels.*pyro-vrnn\[demo\]"):
        co2_weekly()


@pytest.mark.parametrize(
    ("values", "labels", "message"),
    [
        (np.zeros((2, 1)), None, r"Expected values of shape \(n,\), got \(2, 1\)\."),
        (np.array([0.0, np.nan]), None, r"Expected values to be finite, got NaN or infinity\."),
        (np.zeros(2), ("a",), r"Expected 2 labels, got 1\."),
    ],
    ids=["shape", "nan", "labels"],
)
def test_series_refuses(values, labels, message):
    with pytest.raises(ValueError, match=message):
        Series(values, labels, "y", 0, "here")


@pytest.mark.parametrize(
    "content",
    [
        "when,y,z\na,1,9\nb,-2.5,9\nc,1e3,9\n",
        "when,y,z\r\na,1,9\r\nb,-2.5,9\r\nc,1e3,9\r\n",
        "when,y,z\ra,1,9\rb,-2.5,9\rc,1e3,9",
        "\ufeffwhen,y,z\na,1,9\nb,-2.5,9\nc,1e3,9",
        'when, y ,z\n a ,"1",9\nb, -2.5 ,9\nc,1e3,9\n\n  \n',
    ],
    ids=["plain", "crlf", "cr", "byte-order-mark", "spaces-quotes-blank-end"],
)
def test_read_csv_reads_a_column_and_labels(csv_file, content):
    path = csv_file(content)
    series = read_csv(path, "y")
    assert series.values.tolist() == [1.0, -2.5, 1000.0]
    assert series.values.dtype == np.float64
    assert series.labels == ("a", "b", "c")
    assert (series.name, series.filled, series.source) == ("y", 0, str(path))


def test_read_csv_first_column_has_no_labels(csv_file):
    assert read_csv(csv_file("y,z\n1,a\n2,b\n"), "y").labels is None


def test_read_csv_byte_order_mark_is_no_part_of_the_first_name(csv_file):
    series = read_csv(csv_file(b"\xef\xbb\xbfy,z\n1,a\n"), "y")
    assert (series.name, series.values.tolist()) == ("y", [1.0])


def test_read_csv_takes_a_constant(csv_file):
    assert read_csv(csv_file("y\n3\n3\n"), "y").values.tolist() == [3.0, 3.0]


def test_read_csv_prefers_the_name_as_written(csv_file):
    path = csv_file("y , y,y\n1,2,3\n")
    assert read_csv(path, "y").values.tolist() == [3.0]
    assert read_csv(path, " y").values.tolist() == [2.0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"Expected a CSV file with a header, got an empty file: .*series\.csv\.$"),
        ("\n \n", r"Expected a CSV file with a header, got an empty file: "),
        ("t,y\n", r"Expected rows below the header, got none: .*series\.csv\.$"),
        ("t,z\na,1\n", r"Expected column to be one of 't', 'z', got 'y'\.$"),
        ("y,y\n1,2\n", r"Expected one column named 'y', got 2\.$"),
        ("t;y\na;1,5\n", r"one of 't;y', got 'y'\. The header is one column with a semicolon: "),
        ("t\ty\na\t1\n", r"got 'y'\. The header is one column with a tab: separate the columns"),
        ("t,y\na,1\nb,x\n", r"column 'y', got 'x' in row 3 of the file \(header = row 1\)\.$"),
        ("t,y\na,1\nb,\n", r"column 'y', got '' in row 3 of the file"),
        ("t,y\na,nan\n", r"Expected a finite number in column 'y', got 'nan' in row 2 of"),
        ("t,y\na,1\nb,2\nc,-inf\n", r"got '-inf' in row 4 of the file"),
        ("t,y\na,1_0\n", r"got '1_0' in row 2 of the file"),
        ('t,y\na,"1,000"\n', r"got '1,000' in row 2 of the file"),
        ("y\n1\n\n2\n", r"got '' in row 3 of the file"),
        ("y\n" + "x" * 90 + "\n", r"got 'x{37}\.\.\.' in row 2"),
        ('t,y\n"a\nb",1\nc,x\n', r"got 'x' in row 4 of the file"),
        ("t,y\na,1\nb,2,3\n", r"Expected 2 cells in row 3 of the file \(header = row 1\), got 3\."),
        ("t,y\na,1\nb\n", r"Expected 2 cells in row 3 of the file \(header = row 1\), got 1\."),
        ("y\n1,2\n", r"Expected 1 cell in row 2 of the file \(header = row 1\), got 2\."),
        ('t,y\na,1\n"b,2\n', r"cannot be parsed from row 3 on \(unexpected end of data\): "),
        ("t,y\né,1\n".encode("latin-1"), r"in UTF-8, got byte 0xe9 in row 2 \(Latin-1\?\): save"),
        ("t,y\na,1\n".encode("utf-16"), r"in UTF-8, got UTF-16 or binary data: save it as UTF-8"),
        ("t,y\na,1\n".encode("utf-16-le"), r"in UTF-8, got UTF-16 or binary data: save it"),
        (
            ",".join(f"c{i}" for i in range(25)) + "\n",
            r"'c18', 'c19' and 5 more, got 'y'\.$",
        ),
    ],
    ids=[
        "empty",
        "blank",
        "no-rows",
        "no-column",
        "column-twice",
        "semicolons",
        "tabs",
        "word",
        "empty-cell",
        "nan",
        "inf",
        "underscore",
        "thousands",
        "blank-row-inside",
        "long-cell",
        "row-after-quoted-newline",
        "more-cells",
        "fewer-cells",
        "more-than-one-cell",
        "open-quote",
        "latin-1",
        "utf-16",
        "utf-16-no-mark",
        "many-columns",
    ],
)
def test_read_csv_refuses_in_one_line(csv_file, content, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_csv(csv_file(content), "y")
    assert "\n" not in str(caught.value)


def test_read_csv_row_of_a_bad_byte_counts_behind_a_byte_order_mark(csv_file):
    content = b"\xef\xbb\xbft,y\n\xe9,1\n"
    with pytest.raises(ValueError, match=r"got byte 0xe9 in row 2 "):
        read_csv(csv_file(content), "y")


def test_read_csv_of_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Expected a file at .*none\.csv, got none\."):
        read_csv(tmp_path / "none.csv", "y")


def test_read_csv_of_a_folder(tmp_path):
    with pytest.raises(ValueError, match=r"Expected a readable file, got .*: Is a directory\."):
        read_csv(tmp_path, "y")


def test_read_csv_column_is_a_name(csv_file):
    with pytest.raises(TypeError, match=r"Expected column to be a name in the header, got 1\."):
        read_csv(csv_file("t,y\na,1\n"), 1)
