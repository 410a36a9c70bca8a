"""fastrnn: fused RNN, LSTM and GRU, forward and back-propagation through time."""

from __future__ import annotations

from fastrnn import reference
from fastrnn.derivatives import (
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
from fastrnn.functional import (
    FamilyGradients,
    Features,
    GRUGradients,
    LayerNorm,
    LSTMGradients,
    RNNGradients,
    backends,
    get_float32_precision,
    get_num_threads,
    gru_backward,
    gru_forward,
    gru_step,
    lstm_backward,
    lstm_forward,
    lstm_step,
    rnn_backward,
    rnn_forward,
    rnn_step,
    set_float32_precision,
    set_num_threads,
)
from fastrnn.info import CudaPath, cuda_path, installed, show_config
from fastrnn.layouts import convert
from fastrnn.modules import GRU, LSTM, RNN

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "CudaPath",
    "FamilyGradients",
    "Features",
    "GRUGradients",
    "LSTMGradients",
    "LayerNorm",
    "RNNGradients",
    "backends",
    "convert",
    "cuda_path",
    "get_float32_precision",
    "get_num_threads",
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
    "reference",
    "rnn_backward",
    "rnn_backward_jvp",
    "rnn_double_backward",
    "rnn_forward",
    "rnn_jvp",
    "rnn_step",
    "set_float32_precision",
    "set_num_threads",
    "show_config",
]


def __getattr__(name: str) -> str:
    if name == "__version__":
        return installed("fastrnn") or "unknown: run from its source"
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
