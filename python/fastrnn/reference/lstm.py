"""Long short-term memory: Hochreiter & Schmidhuber, Neural Computation 9(8), 1997; the forget gate
from Gers, Schmidhuber & Cummins, "Learning to Forget", Neural Computation 12(10), 2000.
torch.nn.LSTM.

    i = sigmoid(gx_i + gh_i)        input gate
    f = sigmoid(gx_f + gh_f)        forget gate
    g = tanh   (gx_g + gh_g)        candidate
    o = sigmoid(gx_o + gh_o)        output gate
    c_t = f c_(t-1) + i g
    h_t = o tanh(c_t)
"""

from __future__ import annotations

import numpy as np

from .cell import Arrays, Cell, sigmoid


def forward(gx: Arrays, gh: Arrays, prev: Arrays) -> tuple[Arrays, Arrays]:
    _, c_prev = prev
    i = sigmoid(gx[0] + gh[0])
    f = sigmoid(gx[1] + gh[1])
    g = np.tanh(gx[2] + gh[2])
    o = sigmoid(gx[3] + gh[3])
    c = f * c_prev + i * g
    h = o * np.tanh(c)
    return (h, c), (i, f, g, o)


def backward(prev: Arrays, curr: Arrays, reserve: Arrays, dcurr: Arrays) -> tuple[Arrays, Arrays]:
    (_, c_prev), (_, c) = prev, curr
    i, f, g, o = reserve
    dh, dc = dcurr
    tanh_c = np.tanh(c)
    dc = dc + dh * o * (1.0 - tanh_c * tanh_c)
    di = dc * g * i * (1.0 - i)
    df = dc * c_prev * f * (1.0 - f)
    dg = dc * i * (1.0 - g * g)
    do = dh * tanh_c * o * (1.0 - o)
    return (di, df, dg, do), (np.zeros_like(dh), dc * f)


LSTM = Cell("lstm", 4, 2, (0, 1, 2, 3), (0, 1, 2, 3), forward, backward)
