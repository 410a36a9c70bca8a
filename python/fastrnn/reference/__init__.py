"""RNN, LSTM and GRU layers in NumPy and float64: the specification that every backend of fastrnn is
tested against.

Read in this order: `lstm.py`, `gru.py`, `rnn.py` (the equations), `cell.py` (what a cell is),
`gates.py` (what goes on around a gate), `sequence.py` (the loop over time and back), `features.py`,
`check.py` and `functional.py` (what callers see). It needs NumPy and nothing else.
"""

from __future__ import annotations

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
    "gru_forward",
    "gru_step",
    "lstm_backward",
    "lstm_forward",
    "lstm_step",
    "rnn_backward",
    "rnn_forward",
    "rnn_step",
]
