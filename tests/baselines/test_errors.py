"""What the dropping layers refuse, and in which words."""

from __future__ import annotations

import pytest
import torch

from pyro_vrnn.baselines import GRU, LSTM, RNN, Embedding, Linear

X = torch.zeros(6, 4, 9)
PACKED = torch.nn.utils.rnn.pack_sequence([torch.zeros(3, 9)])


def with_masks(net, **changes):
    return {**net.draw_masks(4), **changes}


NET = LSTM(9, 5)
ERRORS = {
    "dropout": (lambda: LSTM(9, 5, 2, True, False, 0.5), ValueError,
                r"Expected dropout=0, got 0\.5: what is dropped is said by drop_prob"),
    "dropout of one layer": (lambda: GRU(9, 5, dropout=0.5), ValueError, r"Expected dropout=0"),
    "dropout of an RNN": (lambda: RNN(9, 5, 2, "relu", True, False, 0.5), ValueError,
                          r"Expected dropout=0, got 0\.5"),
    "proj_size": (lambda: LSTM(9, 5, proj_size=3), ValueError,
                  r"Expected proj_size=0, got 3: what is dropped is said by drop_prob"),
    "method": (lambda: LSTM(9, 5, method="dropconnect"), ValueError,
               "Expected method to be one of 'none', 'naive', 'non-recurrent', 'variational', "
               "'gaussian', got 'dropconnect'"),
    "gates": (lambda: LSTM(9, 5, gates="all"), ValueError, "Expected gates to be one of 'tied', "),
    "scope": (lambda: Linear(9, 5, scope="step"), ValueError,
              "Expected scope to be one of 'sequence', 'batch', got 'step'"),
    "form": (lambda: Embedding(9, 5, parametrization="x"), ValueError,
             "Expected parametrization to be one of 'non-inverted', 'inverted', got 'x'"),
    "nonlinearity": (lambda: RNN(9, 5, nonlinearity="sin"), ValueError,
                     "Expected nonlinearity to be one of 'tanh', 'relu', got 'sin'"),
    "p = 1": (lambda: LSTM(9, 5, drop_prob=1.0), ValueError,
              r"Expected drop_prob in \[0, 1\), got 1\.0: everything would be dropped\."),
    "p > 1": (lambda: LSTM(9, 5, drop_prob=1.3), ValueError,
              r"Expected drop_prob in \[0, 1\), got 1\.3\."),
    "p of a kind": (lambda: Linear(9, 5, drop_prob={"linear": -0.1}), ValueError,
                    r"Expected drop_prob\['linear'\] in \[0, 1\), got -0\.1\."),
    "type of p": (lambda: LSTM(9, 5, drop_prob="0.5"), TypeError,
                  r"Expected drop_prob to be a number in \[0, 1\], got '0\.5'\."),
    "unknown name": (lambda: LSTM(9, 5, drop_prob={"weight_hh_l1": 0.5}), ValueError,
                     r"Expected the names in drop_prob to be weights or kinds \(weight_ih_l0, "
                     r"weight_hh_l0, weight_ih, .*\), got 'weight_hh_l1'\."),
    "bias": (lambda: LSTM(9, 5, drop_prob={"bias": 0.5}), ValueError, r"got 'bias'\."),
    "directions": (lambda: GRU(9, 5, bidirectional=True, method="non-recurrent",
                               drop_prob={"weight_ih_l0": 0.5}), ValueError,
                   r"Expected one drop_prob of 'weight_ih' for both directions with method "
                   r"'non-recurrent', which masks their common input, got \[0\.5, 0\.25\] in "),
    "input size": (lambda: NET(torch.zeros(6, 4, 8)), ValueError,
                   r"Expected input of shape \(\*, 9\), got \(6, 4, 8\)\."),
    "input dims": (lambda: NET(torch.zeros(2, 6, 4, 9)), ValueError,
                   r"Expected input of 2 or 3 dims, got \(2, 6, 4, 9\)\."),
    "no steps": (lambda: NET(torch.zeros(0, 4, 9)), ValueError,
                 r"Expected input of at least one time step of one sequence, got shape \(0, 4, 9"),
    "input dtype": (lambda: NET(X.double()), TypeError, "Expected input of dtype torch.float32"),
    "lengths": (lambda: NET(X, lengths=[7, 1, 1, 1]), ValueError,
                r"Expected lengths in 1\.\.6, got 7\."),
    "packed and lengths": (lambda: NET(PACKED, lengths=[3]), ValueError,
                           "Expected no lengths beside a PackedSequence, got both"),
    "state of an LSTM": (lambda: NET(X, torch.zeros(1, 4, 5)), TypeError,
                         r"hx to be a pair \(h_0, c_0\) of shape \(1, 4, 5\), got a Tensor"),
    "state of a GRU": (lambda: GRU(9, 5)(X, (X, X)), TypeError,
                       r"Expected hx to be h_0 of shape \(1, 4, 5\), got tuple of 2\."),
    "shape of a state": (lambda: NET(X, (X, X)), ValueError,
                         r"Expected h_0 of shape \(1, 4, 5\), got \(6, 4, 9\)\."),
    "number of sequences": (lambda: NET.draw_masks(0), ValueError,
                            r"Expected num_sequences to be a positive int, got 0\."),
    "masks to draw": (lambda: LSTM(9, 5, method="naive").draw_masks(4), ValueError,
                      "Expected method 'variational' or 'gaussian', got 'naive', which has no "
                      "masks that last for a sequence"),
    "masks to use": (lambda: LSTM(9, 5, method="none")(X, masks={}), ValueError,
                     "Expected masks with method 'variational' or 'gaussian', got 'none'"),
    "names of masks": (lambda: NET(X, masks={"weight_hh_l0": torch.ones(4, 4, 5)}), ValueError,
                       r"Expected masks of the weights with p > 0 \(weight_ih_l0, weight_hh_l0\), "
                       r"got weight_hh_l0\."),
    "columns of masks": (lambda: NET(X, masks=with_masks(NET, weight_hh_l0=torch.ones(4, 4, 9))),
                         ValueError, r"Expected masks\['weight_hh_l0'\] of shape \(N, K, 5\), got"),
    "gates of masks": (lambda: NET(X, masks=with_masks(NET, weight_hh_l0=torch.ones(4, 2, 5))),
                       ValueError, r"Expected masks\['weight_hh_l0'\] for 1 or 4 sequences and 1 "
                       r"or 4 parts of the rows, got \(4, 2, 5\)\."),
    "sequences of masks": (lambda: NET(X, masks=NET.draw_masks(3)), ValueError,
                           r"for 1 or 4 sequences and 1 or 4 parts of the rows, got \(3, 4, 9\)"),
    "features": (lambda: Linear(9, 8)(torch.zeros(4, 8)), ValueError,
                 r"Expected input of shape \(\*, 9\), got \(4, 8\)\."),
    "dtype of features": (lambda: Linear(9, 8)(X.double()), TypeError, "Expected input of dtype"),
    "dim of sequences": (lambda: Linear(9, 8)(X, 3), ValueError,
                         r"Expected batch_dim to be a dim of the input, got 3 for \(6, 4, 9\)\."),
    "last dim": (lambda: Linear(9, 8)(X, -1), ValueError,
                 r"Expected 9 sequences, those of the mask, along dim 2 of the input"),
    "dim of ids": (lambda: Embedding(9, 8)(torch.zeros(2, 3).long(), 2), ValueError,
                   r"Expected batch_dim to be a dim of the ids, got 2 for \(2, 3\)\."),
}  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS.values(), ids=ERRORS)
def test_errors(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
