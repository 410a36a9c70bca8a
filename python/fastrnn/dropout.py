"""Dropout between layers: masks from the counter-based generator of `reference/philox.py`."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from .reference.philox import BETWEEN_LAYERS, kept, layer_key, philox

__all__ = ["dropout_mask", "layer_key", "philox"]


def dropout_mask(
    shape: tuple[int, int, int], p: float, dtype: npt.DTypeLike, *, seed: int, call: int, layer: int
) -> npt.NDArray[Any]:
    """A mask (T, B, units) of 0 with probability p, else 1 / (1 - p)."""
    return kept(shape, p, layer_key(seed, call, layer), BETWEEN_LAYERS).astype(dtype)
