"""fastrnn in JAX: LSTM, GRU and RNN as functions of a dictionary of parameters and a sequence.

Stacks, both directions, lengths, masks, resets and initial states; ``jit``, ``grad``, ``vmap`` and
``lax.scan`` around them. A layer is one call of the fused kernels through XLA's foreign function
interface.
"""

from __future__ import annotations

from fastrnn.jax.functions import gru, init, lstm, rnn

__all__ = ["gru", "init", "lstm", "rnn"]
