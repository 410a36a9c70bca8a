"""fastrnn in Keras 3: existing LSTM, GRU and SimpleRNN layers computed by the fused kernels.

The NumPy, torch and JAX backends, on the CPU.
"""

from __future__ import annotations

from fastrnn.keras.layers import GRU, LSTM, SimpleRNN
from fastrnn.keras.switch import disable, enable, report

__all__ = ["GRU", "LSTM", "SimpleRNN", "disable", "enable", "report"]
