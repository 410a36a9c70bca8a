"""fastrnn for PyTorch: RNN, LSTM, GRU and their cells, in place of those of torch.nn.

>>> import torch, fastrnn.torch
>>> lstm = fastrnn.torch.LSTM(8, 16, num_layers=2, batch_first=True)
>>> y, (h_n, c_n) = lstm(torch.randn(4, 20, 8), lengths=torch.tensor([20, 3, 0, 7]))
>>> y.shape
torch.Size([4, 20, 16])

Importing this module sets ``torch._dynamo.config.allow_rnn = True`` (see
:mod:`fastrnn.torch.dynamo`).
"""

from __future__ import annotations

import torch

from fastrnn.torch.cells import GRUCell, LSTMCell, RNNCell
from fastrnn.torch.dynamo import allow_rnn
from fastrnn.torch.modules import GRU, LSTM, RNN
from fastrnn.torch.replace import Replaced, patch, replace

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "GRUCell",
    "LSTMCell",
    "RNNCell",
    "Replaced",
    "patch",
    "replace",
]

allow_rnn()
torch.serialization.add_safe_globals([RNN, LSTM, GRU, RNNCell, LSTMCell, GRUCell])
