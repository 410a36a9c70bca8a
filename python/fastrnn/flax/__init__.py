"""fastrnn for Flax: ``RNN`` and ``Bidirectional`` in place of those of ``flax.nnx``.

>>> import jax, fastrnn.flax
>>> from flax import nnx
>>> rnn = fastrnn.flax.RNN(fastrnn.flax.LSTMCell(8, 16, rngs=nnx.Rngs(0)))
>>> rnn(jax.numpy.ones((4, 20, 8))).shape
(4, 20, 16)

The cells are those of ``flax.nnx``, with their parameters and initialisers. Called alone, a cell is
nnx's one step: for the kernels its weights would be brought into their order at every step, which
takes longer than the step.
"""

from __future__ import annotations

from flax.nnx import GRUCell, LSTMCell, OptimizedLSTMCell, SimpleCell

from fastrnn.flax.replace import Replaced, replace
from fastrnn.flax.rnn import RNN, Bidirectional

LSTM, GRU, SimpleRNN = OptimizedLSTMCell, GRUCell, SimpleCell

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Bidirectional",
    "GRUCell",
    "LSTMCell",
    "OptimizedLSTMCell",
    "Replaced",
    "SimpleCell",
    "SimpleRNN",
    "replace",
]
