"""Dual numbers: arrays that carry their derivative along one direction.

    Dual(value, tangent)    f(Dual(a, t)) = Dual(f(a), f'(a) t)

NumPy's functions take them, so that the reference's own equations, run on them, are their own
derivatives (forward mode: Wengert, "A simple automatic derivative evaluation program", CACM 7(8),
1964). Only what those equations use is here. Comparisons see the value alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from .activations import sigmoid

Parts = tuple[Any, Any]  # value, tangent


class Dual(NDArrayOperatorsMixin):
    """An array and its tangent, of the same shape, both float64."""

    def __init__(self, value: Any, tangent: Any) -> None:
        self.value, self.tangent = value, tangent

    def both(self, function: Callable[[Any], Any]) -> Dual:
        """A linear function of one argument."""
        return Dual(function(self.value), function(self.tangent))

    @property
    def shape(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = self.value.shape
        return shape

    @property
    def T(self) -> Dual:
        return self.both(lambda a: a.T)

    def __len__(self) -> int:
        return len(self.value)

    def __getitem__(self, index: Any) -> Dual:
        return self.both(lambda a: a[index])

    def __setitem__(self, index: Any, new: Any) -> None:
        self.value[index], self.tangent[index] = parts(new)

    def __iadd__(self, other: Any) -> Dual:
        value, tangent = parts(other)
        self.value += value
        self.tangent += tangent
        return self

    def __imul__(self, constant: Any) -> Dual:
        self.value *= constant
        self.tangent *= constant
        return self

    def copy(self) -> Dual:
        return self.both(np.copy)

    def swapaxes(self, i: int, k: int) -> Dual:
        return self.both(lambda a: a.swapaxes(i, k))

    def sum(self, **options: Any) -> Dual:
        return self.both(lambda a: a.sum(**options))

    def mean(self, **options: Any) -> Dual:
        return self.both(lambda a: a.mean(**options))

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if method != "__call__" or options:
            return NotImplemented
        if ufunc in _COMPARISONS:
            return ufunc(*(parts(a)[0] for a in inputs))
        if ufunc not in _RULES:
            return NotImplemented
        return Dual(*_RULES[ufunc](*(parts(a) for a in inputs)))

    def __array_function__(self, f: Any, types: Any, given: tuple[Any, ...], options: Any) -> Any:
        return _FUNCTIONS[f](*given, **options) if f in _FUNCTIONS else NotImplemented


def parts(a: Any) -> Parts:
    """Value and tangent; that of a constant is 0."""
    return (a.value, a.tangent) if isinstance(a, Dual) else (a, 0.0)


def _product(operator: Any) -> Callable[[Parts, Parts], Parts]:
    return lambda a, b: (operator(a[0], b[0]), operator(a[1], b[0]) + operator(a[0], b[1]))


def _matmul(a: Parts, b: Parts) -> Parts:
    tangent = 0.0
    for left, right in ((a[1], b[0]), (a[0], b[1])):
        if np.ndim(left) and np.ndim(right):
            tangent = tangent + left @ right
    return a[0] @ b[0], tangent


def _quotient(a: Parts, b: Parts) -> Parts:
    value = a[0] / b[0]
    return value, (a[1] - value * b[1]) / b[0]


def _unary(f: Any, slope: Callable[[Any, Any], Any]) -> Callable[[Parts], Parts]:
    """slope(a, f(a))"""

    def rule(a: Parts) -> Parts:
        value = f(a[0])
        return value, slope(a[0], value) * a[1]

    return rule


def _choice(f: Any, first: Any) -> Callable[[Parts, Parts], Parts]:
    return lambda a, b: (f(a[0], b[0]), np.where(first(a[0], b[0]), a[1], b[1]))


def _power(a: Parts, n: Parts) -> Parts:
    return a[0] ** n[0], n[0] * a[0] ** (n[0] - 1) * a[1]


def _log_of_sum(a: Parts, b: Parts) -> Parts:
    share = sigmoid(a[0] - b[0])
    return np.logaddexp(a[0], b[0]), share * a[1] + (1.0 - share) * b[1]


_COMPARISONS = {np.greater, np.greater_equal, np.less, np.less_equal}
_RULES: dict[Any, Callable[..., Parts]] = {
    np.add: lambda a, b: (a[0] + b[0], a[1] + b[1] + np.zeros_like(a[0] + b[0])),
    np.subtract: lambda a, b: (a[0] - b[0], a[1] - b[1] + np.zeros_like(a[0] - b[0])),
    np.multiply: _product(np.multiply),
    np.matmul: _matmul,
    np.true_divide: _quotient,
    np.negative: lambda a: (-a[0], -a[1]),
    np.power: _power,
    np.absolute: _unary(np.abs, lambda a, value: np.where(a >= 0, 1.0, -1.0)),
    np.exp: _unary(np.exp, lambda a, value: value),
    np.expm1: _unary(np.expm1, lambda a, value: value + 1.0),
    np.tanh: _unary(np.tanh, lambda a, value: 1.0 - value * value),
    np.sqrt: _unary(np.sqrt, lambda a, value: 0.5 / value),
    np.maximum: _choice(np.maximum, np.greater),
    np.minimum: _choice(np.minimum, np.less),
    np.logaddexp: _log_of_sum,
}


def _clip(a: Dual, low: float, high: float) -> Dual:
    inside = (a.value >= low) & (a.value <= high)
    return Dual(np.clip(a.value, low, high), np.where(inside, a.tangent, 0.0))


def _where(condition: Any, yes: Any, no: Any) -> Dual:
    return Dual(*(np.where(condition, y, n) for y, n in zip(parts(yes), parts(no), strict=True)))


def _joined(f: Any) -> Callable[..., Dual]:
    def rule(arrays: Any, **options: Any) -> Dual:
        pairs = [np.broadcast_arrays(*parts(a)) for a in arrays]
        return Dual(*(f(part, **options) for part in zip(*pairs, strict=True)))

    return rule


def _norm(a: Dual, axis: int) -> Dual:
    value = np.linalg.norm(a.value, axis=axis)
    along = (a.value * a.tangent).sum(axis=axis)
    return Dual(value, along / np.where(value > 0.0, value, 1.0))


def _full_like(a: Dual, fill: float) -> Dual:
    return Dual(np.full_like(a.value, fill), np.zeros_like(a.value))


_FUNCTIONS: dict[Any, Callable[..., Dual]] = {
    np.clip: _clip,
    np.where: _where,
    np.stack: _joined(np.stack),
    np.hstack: _joined(np.hstack),
    np.zeros_like: lambda a, **options: a.both(lambda part: np.zeros_like(part, **options)),
    np.full_like: _full_like,
    np.linalg.norm: _norm,
}
