"""Corpora: which files are read, what counts as a word, what is refused with its place."""

from __future__ import annotations

import pytest
import torch

from pyro_vrnn.data import read_corpus
from tests.shared_data import shared_data

TRAIN = " the cat saw <unk> \n the dog \n\n"
VALID = "the cow\n"
TEST = "dog saw"


@pytest.fixture
def write(tmp_path):
    def call(**texts):
        files = {"train": TRAIN, "valid": VALID, "test": TEST, **texts}
        for name, text in files.items():
            if text is not None:
                path = tmp_path / f"{name}.txt"
                path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return tmp_path

    return call


def read(corpus, split):
    return " ".join(corpus.vocabulary.tokens(getattr(corpus, split)))


def test_every_line_ends_in_eos(write):
    corpus = read_corpus(write())
    assert read(corpus, "train") == "the cat saw <unk> <eos> the dog <eos> <eos>"
    assert read(corpus, "valid") == "the <unk> <eos>"
    assert read(corpus, "test") == "dog saw <eos>"
    assert corpus.vocabulary.words == ("<eos>", "the", "<unk>", "cat", "dog", "saw")
    assert corpus.train.dtype == corpus.valid.dtype == corpus.test.dtype == torch.int64


def test_a_written_eos_is_not_doubled(write):
    folder = write(train="a b <eos>\n<eos>\nb <eos> a\n", valid="a\n", test="b <eos>")
    corpus = read_corpus(folder)
    assert read(corpus, "train") == "a b <eos> <eos> b <eos> a <eos>"
    assert read(corpus, "test") == "b <eos>"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["lf", "crlf", "cr"])
def test_ends_of_lines_are_those_of_any_system(write, end):
    corpus = read_corpus(write(train=f"a b{end}{end}b{end}", valid="a", test="b"))
    assert read(corpus, "train") == "a b <eos> <eos> b <eos>"


def test_other_separators_end_no_line(write):
    corpus = read_corpus(write(train="a\x0cb\u2028a\x85b\n", valid="a", test="b"))
    assert read(corpus, "train") == "a b a b <eos>"


def test_a_byte_order_mark_is_no_word(write):
    corpus = read_corpus(write(train="\ufeffa b\n", valid="a", test="b"))
    assert read(corpus, "train") == "a b <eos>"


def test_text_in_the_form_of_wikitext(tmp_path):
    text = " \n = Snow = \n \n Snow is <unk> , and it @-@ melts . \n"
    for split in ("train", "valid", "test"):
        (tmp_path / f"wiki.{split}.tokens").write_text(text)
    corpus = read_corpus(tmp_path)
    words = "<eos> = Snow = <eos> <eos> Snow is <unk> , and it @-@ melts . <eos>"
    assert read(corpus, "train") == read(corpus, "valid") == words


@pytest.mark.parametrize("most", [1, 2, 3, 9])
def test_the_first_lines_alone_make_text_and_vocabulary(write, most):
    folder = write(train="a <unk>\nb\nc c c\n", valid="a b c", test="a")
    corpus = read_corpus(folder, max_train_lines=most)
    kept = ["a <unk> <eos>", "b <eos>", "c c c <eos>"][:most]
    assert read(corpus, "train") == " ".join(kept)
    assert set(corpus.vocabulary.words) == set(" ".join(kept).split())
    assert read(corpus, "valid").count("<unk>") == max(0, 3 - most)


@pytest.mark.parametrize(
    "names",
    [
        ("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt"),
        ("Train.TXT", "dev.txt", "Test.txt"),
        ("training.tokens", "validation.txt", "testing.tokens"),
        ("trainset.txt", "devset.txt", "testset.txt"),
        ("en-train_1.txt", "en-val_1.txt", "en-test_1.txt"),
    ],
    ids=["ptb", "case", "long", "joined", "numbered"],
)
def test_names_of_files(tmp_path, names):
    for name, text in zip(names, ("a b c", "b", "c"), strict=True):
        (tmp_path / name).write_text(text)
    (tmp_path / "train.md").write_text("no text")
    (tmp_path / "._test.txt").write_text("no text")
    (tmp_path / "valid.test.train.dev.txt").mkdir()
    corpus = read_corpus(str(tmp_path))
    assert [read(corpus, split) for split in ("train", "valid", "test")] == [
        "a b c <eos>",
        "b <eos>",
        "c <eos>",
    ]


def test_a_whole_part_of_a_name_counts_before_a_piece_of_it(write):
    folder = write()
    (folder / "latest-device.txt").write_text("not read")
    assert read(read_corpus(folder), "test") == "dog saw <eos>"


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_a_missing_file_is_named(write, split):
    with pytest.raises(ValueError, match=rf"Expected one {split} file .* got \w+\.txt, \w+\.txt\."):
        read_corpus(write(**{split: None}))


def test_a_folder_of_no_texts(tmp_path):
    with pytest.raises(ValueError, match=r"one train file \(\.txt or \.tokens, .* got none\.$"):
        read_corpus(tmp_path)


def test_two_files_of_one_split_are_named(write):
    folder = write()
    (folder / "dev.txt").write_text("a")
    with pytest.raises(ValueError, match=r"one valid file .* got dev\.txt, valid\.txt\.$"):
        read_corpus(folder)


def test_one_file_for_two_splits(write):
    folder = write(train=None, test=None)
    (folder / "train-test.txt").write_text("a")
    with pytest.raises(ValueError, match=r"a train and a test file in .*, got train-test\.txt for"):
        read_corpus(folder)


def test_a_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Expected a folder of text files at .*nowhere"):
        read_corpus(tmp_path / "nowhere")


@pytest.mark.parametrize("split", ["train", "valid", "test"])
@pytest.mark.parametrize("text", ["", " \n\n"], ids=["empty", "blank"])
def test_a_file_without_words_is_refused(write, split, text):
    with pytest.raises(ValueError, match=rf"Expected words in .*{split}\.txt, got none"):
        read_corpus(write(**{split: text}))


def test_an_unknown_word_is_named_with_its_line(write):
    folder = write(train="the dog\n", valid="dog\n\nthe dog sat\n", test="dog")
    message = r"has no '<unk>', got 'sat' in line 3 of .*valid\.txt\.$"
    with pytest.raises(ValueError, match=message):
        read_corpus(folder)


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_another_encoding_is_named_with_the_byte(write, split):
    raw = "the\ncafé dog\n".encode("latin-1")
    message = rf"{split}\.txt in UTF-8, got byte 0xe9 in row 2 .* byte offset 7\.$"
    with pytest.raises(ValueError, match=message):
        read_corpus(write(**{split: raw}))


def test_the_offset_counts_the_byte_order_mark(write):
    with pytest.raises(ValueError, match=r"byte offset 5\.$"):
        read_corpus(write(train=b"\xef\xbb\xbfa \xff\n"))


def test_utf_16_is_named(write):
    with pytest.raises(ValueError, match=r"train\.txt in UTF-8, got UTF-16 or binary data"):
        read_corpus(write(train="the dog\n".encode("utf-16")))


@pytest.mark.parametrize(("most", "error"), [(0, ValueError), (1.5, TypeError)])
def test_bad_numbers_of_lines(write, most, error):
    with pytest.raises(error, match="Expected max_train_lines to be a positive int"):
        read_corpus(write(), max_train_lines=most)


def test_penn_treebank_counts_as_published():
    corpus = read_corpus(shared_data("ptb"))
    assert len(corpus.vocabulary) == 10_000
    assert [len(corpus.train), len(corpus.valid), len(corpus.test)] == [929_589, 73_760, 82_430]
    unknown = corpus.vocabulary.index["<unk>"]
    found = [int((t == unknown).sum()) for t in (corpus.train, corpus.valid, corpus.test)]
    assert found == [45_020, 3_485, 4_794]
    end = corpus.vocabulary.index["<eos>"]
    assert [int((t == end).sum()) for t in (corpus.train, corpus.valid, corpus.test)] == [
        42_068,
        3_370,
        3_761,
    ]


def test_a_fifth_of_penn_treebank():
    corpus = read_corpus(shared_data("ptb"), max_train_lines=8_414)
    assert len(corpus.train) == 178_063 + 8_414  # words and line ends, as wc counts them
    assert [len(corpus.valid), len(corpus.test)] == [73_760, 82_430]
    assert len(corpus.vocabulary) == 8_385
