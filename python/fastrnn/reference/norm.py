"""Layer normalisation of a row (Ba, Kiros & Hinton, arXiv:1607.06450, equations 3 and 4)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .cell import Array


class Normalised(NamedTuple):
    """(a - mean) / sqrt(variance + eps), row by row, and the factor 1 / sqrt(variance + eps)."""

    value: Array
    factor: Array

    def backward(self, d: Array) -> Array:
        """dL/d(value) -> dL/da."""
        mean = d.mean(axis=1, keepdims=True)
        along = (d * self.value).mean(axis=1, keepdims=True)
        result: Array = self.factor * (d - mean - self.value * along)
        return result


def normalise(a: Array, eps: float) -> Normalised:
    centred = a - a.mean(axis=1, keepdims=True)
    factor = 1.0 / np.sqrt((centred * centred).mean(axis=1, keepdims=True) + eps)
    return Normalised(centred * factor, factor)
