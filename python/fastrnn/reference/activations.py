"""The eleven activations of ONNX's RNN, GRU and LSTM operators, each with its derivative.

Relu max(0, a)   Tanh   Sigmoid   Affine alpha a + beta   LeakyRelu a or alpha a
ThresholdedRelu a where a >= alpha, else 0   ScaledTanh alpha tanh(beta a)
HardSigmoid min(max(alpha a + beta, 0), 1)   Elu a or alpha (exp(a) - 1)   Softsign a / (1 + |a|)
Softplus log(1 + exp(a))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def sigmoid(a: Array) -> Array:
    """1 / (1 + exp(-a)), precise at both ends: exp sees no positive number and never overflows."""
    e = np.exp(-np.abs(a))
    return np.where(a >= 0, 1.0, e) / (1.0 + e)


class Function(NamedTuple):
    """f(a, alpha, beta), df/da, and ONNX's alpha and beta."""

    value: Callable[[Array, float, float], Any]
    slope: Callable[[Array, float, float], Any]
    alpha: float = 0.0
    beta: float = 0.0


def _logistic_slope(a: Array) -> Array:
    return sigmoid(a) * (1.0 - sigmoid(a))


FUNCTIONS = {
    "sigmoid": Function(lambda a, p, q: sigmoid(a), lambda a, p, q: _logistic_slope(a)),
    "tanh": Function(lambda a, p, q: np.tanh(a), lambda a, p, q: 1.0 - np.tanh(a) ** 2),
    "relu": Function(lambda a, p, q: np.maximum(a, 0.0), lambda a, p, q: np.where(a > 0, 1.0, 0.0)),
    "affine": Function(lambda a, p, q: p * a + q, lambda a, p, q: np.full_like(a, p), 1.0, 0.0),
    "leakyrelu": Function(
        lambda a, p, q: np.where(a >= 0, a, p * a), lambda a, p, q: np.where(a >= 0, 1.0, p), 0.01
    ),
    "thresholdedrelu": Function(
        lambda a, p, q: np.where(a >= p, a, 0.0), lambda a, p, q: np.where(a >= p, 1.0, 0.0), 1.0
    ),
    "scaledtanh": Function(
        lambda a, p, q: p * np.tanh(q * a),
        lambda a, p, q: p * q * (1.0 - np.tanh(q * a) ** 2),
        1.0,
        1.0,
    ),
    "hardsigmoid": Function(
        lambda a, p, q: np.clip(p * a + q, 0.0, 1.0),
        lambda a, p, q: np.where((p * a + q > 0.0) & (p * a + q < 1.0), p, 0.0),
        0.2,
        0.5,
    ),
    "elu": Function(
        lambda a, p, q: np.where(a >= 0, a, p * np.expm1(np.minimum(a, 0.0))),
        lambda a, p, q: np.where(a >= 0, 1.0, p * np.exp(np.minimum(a, 0.0))),
        1.0,
    ),
    "softsign": Function(
        lambda a, p, q: a / (1.0 + np.abs(a)), lambda a, p, q: 1.0 / (1.0 + np.abs(a)) ** 2
    ),
    "softplus": Function(lambda a, p, q: np.logaddexp(0.0, a), lambda a, p, q: sigmoid(a)),
}


@dataclass(frozen=True)
class Activation:
    """One of FUNCTIONS with its two numbers."""

    name: str
    alpha: float = 0.0
    beta: float = 0.0

    def value(self, a: Array) -> Array:
        result: Array = FUNCTIONS[self.name].value(a, self.alpha, self.beta)
        return result

    def slope(self, a: Array) -> Array:
        """The derivative at a."""
        result: Array = FUNCTIONS[self.name].slope(a, self.alpha, self.beta)
        return result


SIGMOID, TANH, RELU = Activation("sigmoid"), Activation("tanh"), Activation("relu")
