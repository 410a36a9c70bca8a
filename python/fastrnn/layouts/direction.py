"""What every layout is read into and written from: one direction of one layer, as torch has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

GATES = {"lstm": "ifgo", "gru": "rzn", "gru_reset_before": "rzn", "rnn": "h"}


@dataclass
class Direction:
    """w_ih (GH, I), w_hh (GH, H), b_ih and b_hh (GH,) or None for zeros; gates as in GATES."""

    w_ih: Array
    w_hh: Array
    b_ih: Array | None
    b_hh: Array | None


Layers = list[list[Direction]]  # a layer: forward, and reverse if there is one


class Lossy(ValueError):
    """What is asked for would compute something else."""


def add(a: Array | None, b: Array | None) -> Array | None:
    """The sum of two biases; a bias that is absent adds nothing, not even a rounding."""
    if a is None or b is None:
        return b if a is None else a
    return np.add(a, b)


def zeros_like_bias(direction: Direction) -> Array:
    return np.zeros(direction.w_hh.shape[0], direction.w_hh.dtype)


def reorder(array: Array, axis: int, order: str, wanted: str) -> Array:
    """Gates from one order into another along an axis of len(order) equal parts."""
    if order == wanted:
        return array
    parts = dict(zip(order, np.split(array, len(order), axis), strict=True))
    return np.concatenate([parts[gate] for gate in wanted], axis)
