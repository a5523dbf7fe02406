"""Labelled documents: the scale data's folders, CSV and JSON lines; what is refused, and where."""

from __future__ import annotations

import json
import math

import pytest
import torch

from pyro_vrnn.data import (
    Documents,
    Vocabulary,
    read_labelled,
    read_ratings,
    read_scale_data,
    split_words,
)
from tests.shared_data import shared_data

FILES = {
    "subj": "a fine film . \n not so fine \n",
    "rating": "0.8\n.25\n",
    "label.3class": "2\n0\n",
    "label.4class": "3\n1\n",
    "id": "17\n4\n",
}


@pytest.fixture
def write(tmp_path):
    """Write files: a dict of authors, or one text with the name of its file."""

    def call(text, name="reviews.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return call


@pytest.fixture
def scale(tmp_path):
    def call(author="Ann+Lee", **changed):
        folder = tmp_path / author
        folder.mkdir()
        for kind, text in {**FILES, **changed}.items():
            if text is not None:
                raw = text if isinstance(text, bytes) else text.encode()
                (folder / f"{kind}.{author}").write_bytes(raw)
        return tmp_path

    return call


class TestScaleData:
    def test_lines_of_the_files_belong_together(self, scale):
        documents = read_scale_data(scale())
        assert documents.texts == (("a", "fine", "film", "."), ("not", "so", "fine"))
        assert documents.labels.tolist() == [0.8, 0.25]
        assert documents.labels.dtype == torch.float64
        assert documents.ids == ("17", "4")
        assert documents.groups == ("Ann+Lee", "Ann+Lee")
        assert documents.classes is None

    @pytest.mark.parametrize(("label", "values"), [("3class", [2, 0]), ("4class", [3, 1])])
    def test_classes(self, scale, label, values):
        labels = read_scale_data(str(scale()), label).labels
        assert (labels.tolist(), labels.dtype) == (values, torch.int64)

    def test_authors_of_the_paper_come_first_in_its_order(self, scale):
        for author in ("Zoe", "Steve+Rhodes", "Dennis+Schwartz", "Ann", "James+Berardinelli"):
            folder = scale(author, subj="one\n", rating="1\n", id="1\n")
        (folder / "notes").mkdir()
        assert read_scale_data(folder).groups == (
            "Dennis+Schwartz",
            "James+Berardinelli",
            "Steve+Rhodes",
            "Ann",
            "Zoe",
        )

    def test_only_the_files_that_are_asked_for_are_needed(self, scale):
        folder = scale(**{"label.3class": None, "label.4class": None})
        assert len(read_scale_data(folder)) == 2
        with pytest.raises(FileNotFoundError, match=r"a file at .*label\.3class\.Ann\+Lee, got no"):
            read_scale_data(folder, "3class")

    @pytest.mark.parametrize(
        ("label", "changed", "message"),
        [
            ("rating", {"rating": "0.8\n"}, r"Expected 2 lines in .*rating\.Ann.*texts, got 1\."),
            ("rating", {"id": "1\n2\n3\n"}, r"Expected 2 lines in .*id\.Ann.*texts, got 3\."),
            ("rating", {"rating": "0.8\n1.5\n"}, r"in 0\.0\.\.1\.0, got '1\.5' in line 2 of .*rat"),
            ("rating", {"rating": "nan\n0\n"}, r"a rating in .*got 'nan' in line 1 of .*rating"),
            ("rating", {"rating": "0.1\n\n"}, r"a rating in .*got '' in line 2 of .*rating"),
            ("rating", {"rating": "0_1\n0\n"}, r"a rating in .*got '0_1' in line 1 of"),
            ("rating", {"rating": "good\n1\n"}, r"a rating in .*got 'good' in line 1 of"),
            (
                "3class",
                {"label.3class": "0\n3\n"},
                r"a class in 0\.\.2, got '3' in line 2 of .*3cl",
            ),
            ("3class", {"label.3class": "0.5\n1\n"}, r"a class in 0\.\.2, got '0\.5' in line 1"),
            ("4class", {"label.4class": "0\n-1\n"}, r"a class in 0\.\.3, got '-1' in line 2"),
            ("rating", {"subj": "a\n \n"}, r"at least one word, got none in line 2 of .*subj\.Ann"),
            (
                "rating",
                {"subj": b"a\ncaf\xe9\n"},
                r"subj\.Ann\+Lee in UTF-8, got byte 0xe9 in row 2",
            ),
            ("rating", {"subj": "", "rating": "", "id": ""}, "Expected reviews in .*, got empty"),
        ],
        ids=[
            "few-ratings",
            "many-ids",
            "above",
            "nan",
            "blank",
            "underscore",
            "word",
            "class-3",
            "half",
            "negative",
            "no-words",
            "latin-1",
            "empty",
        ],
    )
    def test_what_is_wrong_is_named_with_its_place(self, scale, label, changed, message):
        with pytest.raises(ValueError, match=message):
            read_scale_data(scale(**changed), label)

    def test_other_folders_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"folders AUTHOR with a file subj\.AUTHOR in .*none"):
            read_scale_data(tmp_path)
        with pytest.raises(FileNotFoundError, match=r"a folder of authors at .*nowhere, got none"):
            read_scale_data(tmp_path / "nowhere")
        with pytest.raises(ValueError, match="label to be one of 'rating', '3class', '4class', go"):
            read_scale_data(tmp_path, "5class")

    def test_counts_of_the_real_data(self):
        folder = shared_data("scaledata")
        documents = read_scale_data(folder)
        assert len(documents) == 5_006
        assert sum(map(len, documents.texts)) == 2_148_164
        assert [documents.groups.count(a) for a in dict.fromkeys(documents.groups)] == [
            1_027,
            1_307,
            902,
            1_770,
        ]
        assert float(documents.labels.mean()) == pytest.approx(0.5814, abs=5e-5)
        three, four = (read_scale_data(folder, f"{k}class").labels for k in (3, 4))
        assert three.bincount().tolist() == [1_197, 1_915, 1_894]
        assert four.bincount().tolist() == [615, 1_553, 1_998, 840]


CSV = 'id,text,label\nx,"a fine, long\nfilm",0.5\ny,bad,-1e0\n'
JSON = (
    '{"text": "a fine, long\\nfilm", "label": 0.5, "id": 3}\n\n'
    '{"id": 4, "label": -1, "text": "bad"}'
)


class TestLabelled:
    @pytest.mark.parametrize(
        ("name", "text"), [("r.csv", CSV), ("r.JSONL", JSON)], ids=["csv", "json"]
    )
    def test_rows_are_documents(self, write, name, text):
        documents = read_labelled(write(text, name))
        assert documents.texts == (("a", "fine,", "long", "film"), ("bad",))
        assert documents.labels.tolist() == [0.5, -1.0]
        assert documents.labels.dtype == torch.float64
        assert documents.groups is None

    def test_documents_without_names_are_called_by_their_line(self, write):
        assert read_labelled(write(CSV)).ids == ("2", "4")
        assert read_labelled(write(JSON, "r.jsonl")).ids == ("1", "3")

    def test_documents_have_the_names_of_a_column(self, write):
        assert read_labelled(write(CSV), id="id").ids == ("x", "y")
        assert read_labelled(write(JSON, "r.jsonl"), id="id").ids == ("3", "4")

    def test_columns_have_any_name(self, write):
        documents = read_labelled(write("stars,review\n4,so so\n"), text="review", label="stars")
        assert (documents.texts, documents.labels.tolist()) == ((("so", "so"),), [4.0])

    def test_texts_are_cut_as_asked(self, write):
        documents = read_labelled(write("text,label\nIt's bad!,0\n"), tokenize=split_words)
        assert documents.texts == (("it's", "bad", "!"),)

    def test_a_separator_inside_a_json_string_ends_no_line(self, write):
        text = json.dumps({"text": "a\u2028b\x85c", "label": 1}, ensure_ascii=False)
        assert read_labelled(write(text, "r.jsonl")).texts == (("a", "b", "c"),)

    def test_classes_are_numbered_by_the_alphabet(self, write):
        text = "text,label\na,pos\nb,neg \nc,pos\nd,10\n"
        documents = read_labelled(write(text), classes=True)
        assert documents.classes == ("10", "neg", "pos")
        assert documents.labels.tolist() == [2, 1, 2, 0]
        assert documents.labels.dtype == torch.int64

    def test_classes_of_whole_numbers_are_ordered_by_value(self, write):
        documents = read_labelled(write("text,label\na,10\nb,9\nc,-1\n"), classes=True)
        assert documents.classes == ("-1", "9", "10")
        assert documents.labels.tolist() == [2, 1, 0]

    def test_labels_may_have_a_range(self, write):
        path = write(CSV)
        assert len(read_labelled(path, label_range=(-1, 0.5))) == 2
        with pytest.raises(
            ValueError, match=r"'label' in 0\.\.1, got -1e0 in line 4: .*reviews\.c"
        ):
            read_labelled(path, label_range=(0, 1))

    def test_classes_may_have_a_range(self, write):
        path = write('{"text": "a", "label": 1}\n{"text": "b", "label": 4}\n', "r.jsonl")
        assert read_labelled(path, classes=True, label_range=(1, 4)).classes == ("1", "4")
        with pytest.raises(ValueError, match=r"'label' in 1\.\.3, got 4 in line 2: .*r\.jsonl"):
            read_labelled(path, classes=True, label_range=(1, 3))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "a CSV file with a header, got an empty file"),
            ("text,label\n", "Expected documents, got none"),
            ("text,stars\na,1\n", "column to be one of 'text', 'stars', got 'label'"),
            ("body,label\na,1\n", "column to be one of 'body', 'label', got 'text'"),
            ("text;label\na;1\n", "one column with a semicolon"),
            ("text,label\na,1\nb,x\n", "'label' to be a finite number, got \"x\" in line 3"),
            ("text,label\na,inf\n", "'label' to be a finite number, got \"inf\" in line 2"),
            ("text,label\na,\n", "'label' to be a finite number, got \"\" in line 2"),
            ('text,label\n"a\nb",1\n  ,1\n', "at least one word, got none in line 4"),
            ("text,label\na,1,2\n", "Expected 2 cells in row 2 .*got 3"),
            ('text,label\n"a,1\n', "cannot be parsed from row 2 on"),
            ("text,label\ncafé,1\n".encode("latin-1"), "in UTF-8, got byte 0xe9 in row 2"),
            ("text,label\na,1\n".encode("utf-16"), "in UTF-8, got UTF-16 or binary data"),
        ],
        ids=[
            "empty",
            "header-alone",
            "no-label",
            "no-text",
            "semicolons",
            "mixed",
            "infinite",
            "no-value",
            "no-words",
            "cells",
            "quote",
            "latin-1",
            "utf-16",
        ],
    )
    def test_what_is_wrong_in_csv_is_one_line_with_its_place(self, write, text, message):
        with pytest.raises(ValueError, match=message) as caught:
            read_labelled(write(text))
        assert "reviews.csv" in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("\n", "Expected documents, got none"),
            (
                '{"text": "a", "label": 1}\n{"text": "a" "label": 2}',
                "a JSON object in line 2, got Exp",
            ),
            ("[1, 2]", r"a JSON object in line 1, got \[1, 2\]"),
            ('{"text": "a"}', "a key 'label' in line 1, got none"),
            ('{"label": 1}', "a key 'text' in line 1, got none"),
            ('{"text": 3, "label": 1}', "'text' to be text, got 3 in line 1"),
            ('{"text": null, "label": 1}', "'text' to be text, got null in line 1"),
            ('{"text": "", "label": 1}', "at least one word, got none in line 1"),
            ('{"text": "a", "label": NaN}', "a finite number, got NaN in line 1"),
            ('{"text": "a", "label": true}', "a finite number, got true in line 1"),
            ('{"text": "a", "label": null}', "a finite number, got null in line 1"),
            (
                '{"text": "a", "label": 1}\n{"text": "a", "label": "bad"}',
                'number, got "bad" in line 2',
            ),
            ('{"text": "a", "label": [' + "1, " * 50 + "1]}", r"got \[1, 1, .*\.\.\. in line 1"),
        ],
        ids=[
            "empty",
            "broken",
            "list",
            "no-label",
            "no-text",
            "number",
            "null-text",
            "no-words",
            "nan",
            "bool",
            "null",
            "mixed",
            "long",
        ],
    )
    def test_what_is_wrong_in_json_is_one_line_with_its_place(self, write, text, message):
        with pytest.raises(ValueError, match=message) as caught:
            read_labelled(write(text, "r.jsonl"))
        assert "r.jsonl" in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("label", ['""', "true", "null", "[1]"])
    def test_what_names_no_class_is_refused(self, write, label):
        path = write(f'{{"text": "a", "label": {label}}}', "r.jsonl")
        with pytest.raises(ValueError, match=r"Expected 'label' to name a class, got .* in line 1"):
            read_labelled(path, classes=True)

    def test_bad_arguments_are_refused(self, write):
        with pytest.raises(ValueError, match=r"a \.csv or \.jsonl file, got .*reviews\.xlsx"):
            read_labelled(write("", "reviews.xlsx"))
        with pytest.raises(FileNotFoundError, match=r"a file at nowhere\.csv, got none"):
            read_labelled("nowhere.csv")
        with pytest.raises(ValueError, match=r"label_range of \(least, greatest\), got \(1, 0\)"):
            read_labelled(write(CSV), label_range=(1, 0))


class TestDocuments:
    def test_select_keeps_what_belongs_together(self):
        documents = Documents(
            (("a",), ("b",), ("c",)),
            torch.tensor([0.0, 1.0, 2.0]),
            ("x", "y", "z"),
            ("g", "h", "g"),
        )
        some = documents.select([2, 0])
        assert (some.texts, some.labels.tolist()) == ((("c",), ("a",)), [2.0, 0.0])
        assert (some.ids, some.groups, len(some)) == (("z", "x"), ("g", "g"), 2)

    def test_padded_cuts_and_fills_behind_the_end(self):
        documents = Documents((("a", "b", "c"), ("b",)), torch.zeros(2), ("x", "y"))
        vocabulary = Vocabulary(("<pad>", "a", "b", "c"))
        x, lengths = documents.padded(vocabulary)
        assert (x.tolist(), lengths.tolist()) == ([[1, 2, 3], [2, 0, 0]], [3, 1])
        x, lengths = documents.padded(vocabulary, max_length=2)
        assert (x.tolist(), lengths.tolist()) == ([[1, 2], [2, 0]], [2, 1])
        with pytest.raises(ValueError, match="got 'b' as word 2 of document 'x'"):
            documents.padded(Vocabulary(("a",)))
        with pytest.raises(ValueError, match="max_length to be a positive int"):
            documents.padded(vocabulary, max_length=0)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            (((), torch.zeros(0), ()), "at least one document, got none"),
            (((("a",),), torch.zeros(2), ("x",)), r"labels of shape \(1,\), got \(2,\)"),
            (((("a",),), torch.tensor([math.nan]), ("x",)), "labels to be finite, got nan"),
            (((("a",),), torch.zeros(1), ("x", "y")), "Expected 1 ids, got 2"),
            (((("a",),), torch.zeros(1), ("x",), ()), "Expected 1 groups, got 0"),
            (((("a",), ()), torch.zeros(2), ("x", "y")), "at least one word, got none for 'y'"),
        ],
        ids=["none", "labels", "nan", "ids", "groups", "no-words"],
    )
    def test_parts_that_do_not_fit_are_refused(self, fields, message):
        with pytest.raises(ValueError, match=message):
            Documents(*fields)


class TestRatings:
    def test_a_folder(self, scale):
        assert read_ratings(scale()).texts == read_scale_data(scale("Z")).texts[:2]

    def test_a_file(self, write):
        path = write("text,label\nA film.,3\n")
        assert read_ratings(path).texts == (("A", "film."),)
        assert read_ratings(path, tokenize=split_words).texts == (("a", "film", "."),)

    def test_columns_of_other_names(self, write):
        path = write('{"review": "good", "stars": 4}\n', "r.jsonl")
        found = read_ratings(path, text="review", label="stars")
        assert (found.texts, found.labels.tolist()) == ((("good",),), [4.0])

    @pytest.mark.parametrize("name", ["text", "label"])
    def test_columns_of_a_folder(self, name, scale):
        with pytest.raises(ValueError, match=r"where text or label names a column, got the folder"):
            read_ratings(scale(), **{name: "stars"})

    def test_a_folder_of_something_else(self, tmp_path):
        with pytest.raises(ValueError, match=r"got none\. \(Or give a \.csv or \.jsonl file\.\)"):
            read_ratings(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Good, GOOD film!!", ["good", ",", "good", "film", "!", "!"]),
        ("don't — it’s “so-so”", ["don't", "—", "it’s", "“", "so-so", "”"]),
        ("costs 3.50 (U.S.)", ["costs", "3.50", "(", "u.s", ".", ")"]),
        ("  \n", []),
    ],
    ids=["marks", "inside", "numbers", "blank"],
)
def test_words_of_prose(text, words):
    assert split_words(text) == words
