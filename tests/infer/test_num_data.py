"""A model that counts its data wrongly trains on another objective: fit says so, once."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from pyro import poutine
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import pyro_vrnn as vrnn
from pyro_vrnn.infer import AutoSpikeAndSlab, fit

X, Y = torch.randn(12, 4, 3), torch.randn(12, 1)
TOKENS = torch.zeros(12, 4, dtype=torch.int64)
DATASET = TensorDataset(X, Y)
LIST = list(zip(X.split(4), Y.split(4), strict=True))
quiet = partial(fit, num_epochs=2, optimizer=partial(torch.optim.Adam, lr=0.01), progress=False)


class Stream(IterableDataset):
    """Sequences without a length."""

    def __iter__(self):
        return iter(DATASET)


class Generated:
    """Batches without a length."""

    def __iter__(self):
        return iter(LIST)


def regression(num_data=None):
    return vrnn.models.SequenceRegression(vrnn.nn.GRU(3, 4), 1, num_data=num_data)


def train(model, data, **kwargs):
    quiet(model, AutoSpikeAndSlab(model), data, **kwargs)


MANY = {
    "list": (LIST, {}, r"num_data\.$"),
    "dataset": (DATASET, {"batch_size": 4}, r"num_data=12\.$"),
    "loader": (DataLoader(DATASET, 5), {}, r"num_data=12\.$"),
    "stream": (DataLoader(Stream(), 5), {}, r"num_data\.$"),
    "generated": (Generated(), {}, r"num_data\.$"),
    "annealed": (LIST, {"kl_weight": lambda step: 1.0}, r"num_data\.$"),
    "accumulated": (LIST, {"accumulate": 3}, r"num_data\.$"),
}


@pytest.mark.parametrize(("data", "kwargs", "end"), MANY.values(), ids=MANY)
def test_more_than_one_batch_without_num_data(data, kwargs, end):
    start = r"^Expected num_data, the number of sequences in the training data, for more than one "
    got = r"batch an epoch, got a SequenceRegression of num_data=None: .* Give the model "
    with pytest.warns(UserWarning, match=start + got + end) as caught:
        train(regression(), data, **kwargs)
    assert len(caught) == 1


def test_a_warning_of_data_with_a_length_names_the_call_of_fit():
    model = regression()
    guide = AutoSpikeAndSlab(model)
    with pytest.warns(UserWarning, match="Expected num_data") as caught:
        fit(model, guide, LIST, num_epochs=1, optimizer=torch.optim.Adam, progress=False)
    assert caught[0].filename == __file__


def test_a_language_model_counts_tokens():
    model = vrnn.models.LanguageModel(5, 4, 4)
    with pytest.warns(UserWarning, match="Expected num_data, the number of target tokens"):
        train(model, list(zip(TOKENS.split(4), TOKENS.split(4), strict=True)))
    model = vrnn.models.LanguageModel(5, 4, 4, num_data=48)  # not the 12 sequences
    train(model, TensorDataset(TOKENS, TOKENS), batch_size=4)


WRONG = {
    "dataset": (DATASET, {"batch_size": 4}),
    "loader": (DataLoader(DATASET, 4, shuffle=True, drop_last=True), {}),
    "one-batch": (DataLoader(DATASET, 12), {}),
}


@pytest.mark.parametrize(("data", "kwargs"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("make", ["regression", "classification", "forecaster"])
def test_num_data_of_another_dataset(make, data, kwargs):
    rnn = vrnn.nn.GRU(3, 4)
    models = {
        "regression": lambda: vrnn.models.SequenceRegression(rnn, 1, num_data=40),
        "forecaster": lambda: vrnn.models.Forecaster(rnn, 1, num_data=40),
    }
    if make == "classification":
        model = vrnn.models.SequenceClassification(rnn, 2, num_data=40)
        classes = TensorDataset(X, torch.zeros(12, dtype=torch.int64))
        data = DataLoader(classes, 4) if isinstance(data, DataLoader) else classes
    else:
        model = models[make]()
    message = (
        r"^Expected num_data=12, the number of sequences in the dataset, got a "
        rf"{type(model).__name__} of num_data=40: it says how often the likelihood counts"
    )
    with pytest.warns(UserWarning, match=message) as caught:
        train(model, data, **kwargs)
    assert len(caught) == 1
    assert caught[0].filename == __file__


RIGHT = {
    "one-batch": (None, [(X, Y)], {}),
    "one-batch-loader": (None, DataLoader(DATASET, 12), {}),
    "one-stands-for-many": (40, [(X, Y)], {}),
    "list": (12, LIST, {}),
    "dataset": (12, DATASET, {"batch_size": 5}),
    "subset": (8, Subset(DATASET, range(8)), {"batch_size": 5}),
    "kl-of-a-batch": (None, LIST, {"kl_weight": 1 / 3}),
    "sampler": (8, DataLoader(DATASET, 4, sampler=SubsetRandomSampler(range(8))), {}),
    "weights": (40, DataLoader(DATASET, 4, sampler=WeightedRandomSampler([1.0] * 12, 40)), {}),
    "batches": (36, DataLoader([(X, Y)] * 3, batch_size=None), {}),
    "collated": (36, DataLoader([(X, Y)] * 3, 1, collate_fn=lambda items: items[0]), {}),
    "stream": (12, DataLoader(Stream(), 5), {}),
}


@pytest.mark.parametrize(("num_data", "data", "kwargs"), RIGHT.values(), ids=RIGHT)
def test_what_may_be_right_is_not_warned_of(num_data, data, kwargs):
    train(regression(num_data), data, **kwargs)  # warnings are errors


def test_a_handler_may_scale():
    with poutine.scale(scale=3.0):
        train(regression(), LIST)
