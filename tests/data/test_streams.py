"""Windows of parallel streams: together they give back the text, each word after the one before."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_vrnn.data import StreamWindows, read_corpus
from tests.shared_data import shared_data


@st.composite
def cases(draw):
    """Return a number of steps n - 1, streams and a window; the words are 1 .. n."""
    batch_size = draw(st.integers(1, 6))
    num_steps = draw(st.integers(batch_size, 80))
    return num_steps, batch_size, draw(st.integers(1, 12))


def text(num_steps):
    return torch.arange(1, num_steps + 2)


@given(cases())
def test_windows_of_training_give_back_the_streams(case):
    num_steps, batch_size, window = case
    windows = StreamWindows(text(num_steps), batch_size, window)
    pieces = list(windows)
    steps = num_steps // batch_size
    widths = [x.shape[1] for x, _ in pieces]
    assert len(windows) == len(pieces) == -(-steps // window)
    assert widths[:-1] == [window] * (len(pieces) - 1)
    x = torch.cat([x for x, _ in pieces], dim=1)
    y = torch.cat([y for _, y in pieces], dim=1)
    assert x.shape == y.shape == (batch_size, steps)
    words = text(num_steps)
    assert x.flatten().equal(words[: steps * batch_size])  # in streams that follow each other
    assert y.flatten().equal(words[1 : steps * batch_size + 1])
    assert windows.num_targets == y.numel()
    assert num_steps - windows.num_targets < batch_size


@given(cases(), st.booleans())
def test_windows_of_all_tokens_lose_none(case, started):
    num_steps, batch_size, window = case
    words = text(num_steps - 1) if started else text(num_steps)
    start = 99 if started else None
    windows = StreamWindows(words, batch_size, window, start=start, all_tokens=True)
    pieces = list(windows)
    streams_x, streams_y = ([[] for _ in range(batch_size)] for _ in "xy")
    for x, y, lengths in pieces:
        assert x.shape == y.shape
        assert lengths.shape == (batch_size,)
        assert lengths.dtype == torch.int64
        assert int(lengths.min()) >= 1
        assert int(lengths.max()) == x.shape[1]
        for k, length in enumerate(lengths.tolist()):
            streams_x[k] += x[k, :length].tolist()
            streams_y[k] += y[k, :length].tolist()
            assert not x[k, length:].any()
            assert not y[k, length:].any()
    sizes = [len(stream) for stream in streams_y]
    assert max(sizes) - min(sizes) <= 1
    given_words = words.tolist()
    before = [99, *given_words] if started else given_words
    assert [i for s in streams_x for i in s] == before[:-1]
    assert [i for s in streams_y for i in s] == before[1:]
    assert windows.num_targets == num_steps == sum(sizes)
    assert len(windows) == len(pieces)


@given(cases())
def test_lengths_differ_in_the_last_window_alone(case):
    num_steps, batch_size, window = case
    pieces = list(StreamWindows(text(num_steps), batch_size, window, all_tokens=True))
    for x, _, lengths in pieces[:-1]:
        assert x.shape[1] == window
        assert lengths.tolist() == [window] * batch_size
    assert pieces[-1][0].shape[1] <= window + 1


def test_one_stream_has_every_word_after_the_first():
    windows = StreamWindows(torch.tensor([5, 6, 7, 8]), 1, 2)
    assert windows.num_targets == 3
    assert [y.tolist() for _, y in windows] == [[[6, 7]], [[8]]]


def test_a_start_symbol_makes_every_word_a_target():
    windows = StreamWindows(torch.tensor([5, 6, 7]), 1, 2, start=0)
    assert windows.num_targets == 3
    assert [x.tolist() for x, _ in windows] == [[[0, 5]], [[6]]]
    assert [y.tolist() for _, y in windows] == [[[5, 6]], [[7]]]


def test_a_step_of_the_longer_streams_alone_joins_the_window_before():
    pieces = list(StreamWindows(torch.arange(1, 9), 3, 2, all_tokens=True))  # 7 = 3 + 2 + 2 steps
    ((_, y, lengths),) = pieces
    assert y.tolist() == [[2, 3, 4], [5, 6, 0], [7, 8, 0]]
    assert lengths.tolist() == [3, 2, 2]


def test_windows_can_be_read_again_and_one_by_one():
    windows = StreamWindows(torch.arange(20), 2, 3)
    again = [(x.tolist(), y.tolist()) for x, y in windows]
    assert again == [(x.tolist(), y.tolist()) for x, y in windows]
    assert again == [tuple(t.tolist() for t in windows[k]) for k in range(len(windows))]
    with pytest.raises(IndexError):
        windows[len(windows)]


def test_windows_are_theirs_to_change():
    words = torch.arange(20)
    windows = StreamWindows(words, 2, 3)
    x, y = windows[0]
    x.zero_()
    y.zero_()
    assert windows[0][0].tolist() == [[0, 1, 2], [9, 10, 11]]
    assert words.equal(torch.arange(20))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8], ids=str)
def test_windows_are_int64_whatever_the_text(dtype):
    x, y, lengths = StreamWindows(torch.arange(9, dtype=dtype), 2, 3, all_tokens=True)[0]
    assert x.dtype == y.dtype == lengths.dtype == torch.int64


def test_windows_stay_on_the_device_of_the_text_and_lengths_on_the_cpu(device):
    x, y, lengths = StreamWindows(torch.arange(9, device=device), 2, 3, start=0, all_tokens=True)[0]
    assert x.device == y.device == torch.arange(1, device=device).device
    assert lengths.device.type == "cpu"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: StreamWindows(torch.arange(3), 3, 2), ValueError, "least 4 words for 3 .* got 3"),
        (
            lambda: StreamWindows(torch.arange(2), 3, 2, start=0),
            ValueError,
            "least 3 words for 3 .* got 2",
        ),
        (
            lambda: StreamWindows(torch.arange(3), 3, 2, all_tokens=True),
            ValueError,
            "least 4 words for 3 .* got 3",
        ),
        (lambda: StreamWindows(torch.arange(0), 1, 2), ValueError, "least 2 words for 1 .* got 0"),
        (lambda: StreamWindows([1, 2, 3], 1, 2), TypeError, "ids to be a Tensor, got list"),
        (lambda: StreamWindows(torch.ones(9), 1, 2), TypeError, "integer dtype, got torch.float32"),
        (lambda: StreamWindows(torch.ones(9) > 0, 1, 2), TypeError, "integer dtype, got torch.bo"),
        (
            lambda: StreamWindows(torch.arange(8).view(2, 4), 1, 2),
            ValueError,
            r"ids of shape \(n,\), got \(2, 4\)",
        ),
        (lambda: StreamWindows(torch.arange(9), 0, 2), ValueError, "batch_size to be a positive"),
        (lambda: StreamWindows(torch.arange(9), 1, 0), ValueError, "window to be a positive int"),
        (lambda: StreamWindows(torch.arange(9), 1, 2, start=-1), ValueError, "least 0, got -1"),
        (lambda: StreamWindows(torch.arange(9), 1, 2, start="a"), TypeError, "or None, got 'a'"),
        (lambda: StreamWindows(torch.arange(9), 1, 2, start=True), TypeError, "None, got True"),
    ],
    ids=[
        "short",
        "short-start",
        "short-all",
        "empty",
        "list",
        "float",
        "bool",
        "2-d",
        "batch-0",
        "window-0",
        "start-negative",
        "start-str",
        "start-bool",
    ],
)
def test_bad_arguments_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_the_shortest_text_of_each_kind_is_taken():
    assert StreamWindows(torch.arange(4), 3, 2).num_targets == 3
    assert StreamWindows(torch.arange(3), 3, 2, start=0).num_targets == 3


def test_a_fifth_of_penn_treebank_in_twenty_streams():
    corpus = read_corpus(shared_data("ptb"), max_train_lines=8_414)
    windows = StreamWindows(corpus.train, 20, 35)
    assert (len(windows), windows.num_targets) == (267, 186_460)
    start = corpus.vocabulary.index["<eos>"]
    test = StreamWindows(corpus.test, 20, 35, start=start, all_tokens=True)
    assert test.num_targets == sum(int(lengths.sum()) for _, _, lengths in test) == 82_430
