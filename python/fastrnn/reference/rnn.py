"""The simple recurrent network of Elman, "Finding Structure in Time" (Cognitive Science 14, 1990);
torch.nn.RNN.

    h_t = f(W_ih x_t + b_ih + W_hh h_(t-1) + b_hh)        f = tanh or relu
"""

from __future__ import annotations

import numpy as np

from .cell import Array, Arrays, Cell


def forward_tanh(gx: Arrays, gh: Arrays, prev: Arrays) -> tuple[Arrays, Arrays]:
    h = np.tanh(gx[0] + gh[0])
    return (h,), ()


def backward_tanh(
    prev: Arrays, curr: Arrays, reserve: Arrays, dcurr: Arrays
) -> tuple[Arrays, Arrays]:
    (h,), (dh,) = curr, dcurr
    da = dh * (1.0 - h * h)
    return (da,), (np.zeros_like(dh),)


def forward_relu(gx: Arrays, gh: Arrays, prev: Arrays) -> tuple[Arrays, Arrays]:
    h = np.maximum(gx[0] + gh[0], 0.0)
    return (h,), ()


def backward_relu(
    prev: Arrays, curr: Arrays, reserve: Arrays, dcurr: Arrays
) -> tuple[Arrays, Arrays]:
    (h,), (dh,) = curr, dcurr
    da: Array = np.where(h > 0.0, dh, 0.0)
    return (da,), (np.zeros_like(dh),)


RNN_TANH = Cell("rnn_tanh", 1, 1, (0,), (0,), forward_tanh, backward_tanh)
RNN_RELU = Cell("rnn_relu", 1, 1, (0,), (0,), forward_relu, backward_relu)
