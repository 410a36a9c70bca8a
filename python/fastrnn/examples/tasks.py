"""Two tasks that take a long memory, as batches that are drawn by chance."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
B, SYMBOLS = 32, 4


def adding(T: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """x (T, B, 2): a number and a mark, one in each half. The sums (1, B, 1) of those marked."""
    x = rng.random((T, B, 2), dtype=np.float32)
    x[:, :, 1] = 0
    for low, high in ((0, T // 2), (T // 2, T)):
        x[rng.integers(low, high, B), np.arange(B), 1] = 1
    return x, (x[:, :, 0] * x[:, :, 1]).sum(0)[None, :, None]


def copying(wait: int, rng: np.random.Generator, K: int = 3) -> tuple[Array, Array]:
    """x (K + wait + K, B, 6): K symbols, nothing, at last a mark. The symbols (K, B, 4) again."""
    symbols = rng.integers(SYMBOLS, size=(K, B))
    codes = np.full((K + wait + K, B), SYMBOLS)
    codes[:K], codes[-K] = symbols, SYMBOLS + 1
    one_hot = np.eye(SYMBOLS + 2, dtype=np.float32)
    return one_hot[codes], one_hot[symbols, :SYMBOLS]
