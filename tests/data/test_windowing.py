import numpy as np
import pytest
import torch

from pyro_vrnn.data import Windows, rolling_origins, split_in_time, windows


def test_windows_by_hand():
    got = windows(np.arange(7.0), window=3, horizon=2)
    assert got.x.shape == (3, 3, 1)
    assert got.x[..., 0].tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4]]
    assert got.y.tolist() == [[3, 4], [4, 5], [5, 6]]
    assert got.origins.tolist() == [3, 4, 5]
    assert got.origins.dtype == torch.int64


def test_windows_where_all_sizes_are_equal():
    # N = T = H = 3: an exchanged axis would change no shape.
    got = windows(np.arange(8.0), window=3, horizon=3)
    assert got.x.shape == (3, 3, 1)
    assert got.x[..., 0].tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4]]
    assert got.y.tolist() == [[3, 4, 5], [4, 5, 6], [5, 6, 7]]


def test_windows_at_a_stride():
    got = windows(np.arange(10.0), window=2, horizon=2, stride=3)
    assert got.origins.tolist() == [2, 5, 8]
    assert got.y.tolist() == [[2, 3], [5, 6], [8, 9]]


def test_windows_of_the_shortest_series():
    got = windows([0.0, 1.0, 2.0], window=2, horizon=1)
    assert got.x.tolist() == [[[0], [1]]]
    assert got.y.tolist() == [[2]]


def test_covariates_stand_beside_the_value_of_their_step():
    covariates = np.stack([np.arange(5) * 10.0, np.arange(5) * 100.0], axis=1)
    got = windows(np.arange(5.0), window=2, horizon=2, covariates=covariates)
    assert got.x.tolist() == [[[0, 0, 0], [1, 10, 100]], [[1, 10, 100], [2, 20, 200]]]
    assert got.y.tolist() == [[2, 3], [3, 4]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_windows_dtype(dtype):
    got = windows(range(4), window=2, horizon=1, dtype=dtype)
    assert (got.x.dtype, got.y.dtype) == (dtype, dtype)


def test_windows_default_dtype_is_torchs():
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        assert windows(range(4), window=2, horizon=1).x.dtype == torch.float64
    finally:
        torch.set_default_dtype(before)


def read_only(values):
    values.setflags(write=False)
    return values


@pytest.mark.parametrize(
    "values",
    [read_only(np.arange(4.0)), torch.arange(4.0), np.arange(4), (0, 1, 2, 3)],
    ids=["read-only", "tensor", "ints", "tuple"],
)
def test_windows_take_what_numpy_takes(values):
    assert windows(values, window=2, horizon=2).y.tolist() == [[2, 3]]


def test_windows_do_not_share_memory_with_the_series():
    values = np.arange(5.0)
    got = windows(values, window=2, horizon=1, dtype=torch.float64)
    got.x.zero_()
    got.y.zero_()
    assert values.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("length", "window", "horizon", "stride"),
    [(20, 3, 1, 1), (20, 3, 4, 1), (21, 3, 4, 2), (23, 3, 4, 4), (30, 3, 4, 7), (7, 3, 4, 1)],
    ids=["horizon-1", "dense", "half", "side-by-side", "gaps", "one-window"],
)
def test_overlap_is_the_mean_count_of_a_target(length, window, horizon, stride):
    got = windows(np.arange(length), window=window, horizon=horizon, stride=stride)
    _, counts = got.y.unique(return_counts=True)
    assert got.overlap == counts.double().mean().item()


def test_overlap_of_a_batch_in_any_order():
    whole = windows(np.arange(20.0), window=3, horizon=4)
    chosen = [9, 0, 2, 10, 2]
    batch = Windows(whole.x[chosen], whole.y[chosen], whole.origins[chosen])
    _, counts = batch.y.unique(return_counts=True)
    assert batch.overlap == counts.double().mean().item()


def test_rolling_origins_by_hand():
    got = rolling_origins(np.arange(10.0), 4, window=3, horizon=2, count=3)
    assert got.x[..., 0].tolist() == [[1, 2, 3], [3, 4, 5], [5, 6, 7]]
    assert got.y.tolist() == [[4, 5], [6, 7], [8, 9]]
    assert got.origins.tolist() == [4, 6, 8]
    assert got.overlap == 1.0


def test_rolling_origins_with_covariates():
    covariates = 10.0 * np.arange(6.0)[:, None]
    got = rolling_origins(range(6), 2, window=1, horizon=2, count=2, covariates=covariates)
    assert got.x.tolist() == [[[1, 10]], [[3, 30]]]


def test_split_by_hand():
    got = split_in_time(24, window=5, horizon=3, num_test_origins=2, num_validation_origins=1)
    assert got.train == range(5, 15)
    assert got.validation == range(15, 18)
    assert got.test == range(18, 24)


def test_parts_of_a_split_share_no_target_and_leave_none_out():
    n, window, horizon = 60, 6, 4
    split = split_in_time(
        n, window=window, horizon=horizon, num_test_origins=4, num_validation_origins=3
    )
    values = np.arange(float(n))
    train = windows(values[: split.train.stop], window=window, horizon=horizon)
    validation = rolling_origins(
        values, split.validation.start, window=window, horizon=horizon, count=3
    )
    test = rolling_origins(values, split.test.start, window=window, horizon=horizon, count=4)
    assert train.y.unique().tolist() == list(split.train)
    assert validation.y.ravel().tolist() == list(split.validation)
    assert test.y.ravel().tolist() == list(split.test)
    assert [*split.train, *split.validation, *split.test] == list(range(window, n))
    assert (validation.x[0, :, 0] < split.validation.start).all()


def test_split_at_the_least_length_leaves_two_training_horizons():
    sizes = {"window": 5, "horizon": 3, "num_test_origins": 2, "num_validation_origins": 1}
    assert len(split_in_time(20, **sizes).train) == 6
    with pytest.raises(
        ValueError,
        match=r"Expected at least 20 values \(window 5 \+ 2 training horizons of 3 \+ "
        r"validation 3 \+ test 6\), got 19\.",
    ):
        split_in_time(19, **sizes)


SIZES = {"window": 2, "horizon": 2}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: windows(range(3), **SIZES),
            r"Expected at least 4 values \(window 2 \+ horizon 2\), got 3\.",
        ),
        (lambda: windows([0.0, np.nan, 1, 2], **SIZES), r"Expected values to be finite, got nan"),
        (lambda: windows([[0.0]], **SIZES), r"Expected values of shape \(n,\), got \(1, 1\)\."),
        (
            lambda: windows(range(4), **SIZES, covariates=np.zeros((3, 1))),
            r"Expected covariates of shape \(4, C\), got \(3, 1\)\.",
        ),
        (
            lambda: windows(range(4), **SIZES, covariates=np.full((4, 1), np.inf)),
            r"Expected covariates to be finite, got inf at index \(0, 0\)\.",
        ),
        (
            lambda: windows(range(4), **SIZES, stride=0),
            r"Expected stride to be a positive int, got 0\.",
        ),
        (
            lambda: windows(range(4), window=0, horizon=1),
            r"Expected window to be a positive int, got 0\.",
        ),
        (
            lambda: rolling_origins(range(9), 6, **SIZES, count=2),
            r"Expected start in 2\.\.5 \(window 2, 2 origins of horizon 2, 9 values\), got 6\.",
        ),
        (
            lambda: rolling_origins(range(9), 1, **SIZES, count=2),
            r"Expected start in 2\.\.5 .*, got 1\.",
        ),
        (
            lambda: split_in_time(50, **SIZES, num_test_origins=0, num_validation_origins=1),
            r"Expected num_test_origins to be a positive int, got 0\.",
        ),
    ],
    ids=[
        "short",
        "nan",
        "axes",
        "covariate-rows",
        "covariate-inf",
        "stride",
        "window",
        "start-late",
        "start-early",
        "no-test",
    ],
)
def test_windows_refuse(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_windows_of_an_integer_dtype_are_refused():
    with pytest.raises(TypeError, match=r"Expected dtype to be a floating type, got torch\.int64"):
        windows(range(4), **SIZES, dtype=torch.int64)
