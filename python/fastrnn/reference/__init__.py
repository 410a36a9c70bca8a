"""RNN, LSTM and GRU layers in NumPy and float64: the specification that every backend of fastrnn is
tested against.

Read in this order: `lstm.py`, `gru.py`, `rnn.py` (the equations), `cell.py` (what a cell is),
`gates.py` (what goes on around a gate), `sequence.py` (the loop over time and back), `features.py`,
`check.py` and `functional.py` (what callers see); `dual.py` and `derivatives.py` (the derivatives
of all that). It needs NumPy and nothing else.
"""

from __future__ import annotations

from .derivatives import (
    gru_backward_jvp,
    gru_double_backward,
    gru_jvp,
    lstm_backward_jvp,
    lstm_double_backward,
    lstm_jvp,
    rnn_backward_jvp,
    rnn_double_backward,
    rnn_jvp,
)
from .features import Features, LayerNorm
from .functional import (
    FamilyGradients,
    GRUGradients,
    LSTMGradients,
    RNNGradients,
    Saved,
    gru_backward,
    gru_forward,
    gru_step,
    lstm_backward,
    lstm_forward,
    lstm_step,
    rnn_backward,
    rnn_forward,
    rnn_step,
)

__all__ = [
    "FamilyGradients",
    "Features",
    "GRUGradients",
    "LSTMGradients",
    "LayerNorm",
    "RNNGradients",
    "Saved",
    "gru_backward",
    "gru_backward_jvp",
    "gru_double_backward",
    "gru_forward",
    "gru_jvp",
    "gru_step",
    "lstm_backward",
    "lstm_backward_jvp",
    "lstm_double_backward",
    "lstm_forward",
    "lstm_jvp",
    "lstm_step",
    "rnn_backward",
    "rnn_backward_jvp",
    "rnn_double_backward",
    "rnn_forward",
    "rnn_jvp",
    "rnn_step",
]
