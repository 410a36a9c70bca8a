"""The simple recurrent network of Elman, "Finding Structure in Time" (Cognitive Science 14, 1990);
torch.nn.RNN.

    h_t = f(W_ih x_t + b_ih + W_hh h_(t-1) + b_hh)        f = tanh or relu
"""

from __future__ import annotations

from .activations import TANH
from .cell import NOTHING, Arrays, Cell, Parameters
from .gates import Gates


def forward(k: Gates, gx: Arrays, gh: Arrays, prev: Arrays) -> tuple[Arrays, Arrays, Arrays]:
    a = gx[0] + gh[0]
    h = k.value(0, a)
    return (h,), (a,), (h,)


def backward(
    k: Gates, prev: Arrays, reserve: Arrays, dcurr: Arrays, dvalues: Arrays
) -> tuple[Arrays, Arrays, Parameters]:
    (a,), (dh,) = reserve, dcurr
    da = k.gradient(0, a, dh + dvalues[0])
    return (da,), (NOTHING,), {}


RNN = Cell("rnn", 1, 1, (0,), (0,), forward, backward, (TANH,))
