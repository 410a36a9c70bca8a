"""Adam with clipping of the gradient's norm, over all parameters laid out end to end."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

_BLOCK = 1 << 14  # five arrays of 64 KiB: a block of an update stays in the L2 cache


class Adam:
    """D. P. Kingma, J. Ba, "Adam: a method for stochastic optimization", ICLR 2015, algorithm 1.

    The arithmetic is torch.optim.Adam's and torch.nn.utils.clip_grad_norm_'s, so that both can be
    compared. values[name] are the parameters: views of one vector, changed in place by `step`.
    """

    def __init__(
        self,
        parameters: Mapping[str, Array],
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
    ) -> None:
        size = sum(array.size for array in parameters.values())
        self._beta1, self._beta2, self._epsilon = beta1, beta2, epsilon
        self._flat = np.empty(size, np.float32)
        self._gradient = np.empty(size, np.float32)
        self._scratch = np.empty(_BLOCK, np.float32)
        self.mean = np.zeros(size, np.float32)
        self.square = np.zeros(size, np.float32)
        self.steps = 0
        self.values = _views(self._flat, parameters)
        self._gradients = _views(self._gradient, parameters)
        for name, array in parameters.items():
            self.values[name][...] = array

    def step(
        self, gradients: Mapping[str, Array], learning_rate: float, clip: float = math.inf
    ) -> float:
        """One update. Returns the gradients' norm before it was clipped to `clip`."""
        for name, place in self._gradients.items():
            place[...] = gradients[name]
        norm = math.sqrt(float(np.dot(self._gradient, self._gradient)))
        scale = min(1.0, clip / (norm + 1e-6))

        self.steps += 1
        # the corrections for the averages' start at zero, both in the rate: one pass less
        correction = math.sqrt(1.0 - self._beta2**self.steps)
        rate = learning_rate * correction / (1.0 - self._beta1**self.steps)
        epsilon = self._epsilon * correction
        for start in range(0, self._flat.size, _BLOCK):
            block = slice(start, start + _BLOCK)
            value, gradient, mean, square = (
                array[block] for array in (self._flat, self._gradient, self.mean, self.square)
            )
            scratch = self._scratch[: value.size]
            gradient *= scale
            np.subtract(gradient, mean, out=scratch)
            scratch *= 1.0 - self._beta1
            mean += scratch
            square *= self._beta2
            np.multiply(gradient, gradient, out=scratch)
            scratch *= 1.0 - self._beta2
            square += scratch
            np.sqrt(square, out=scratch)
            scratch += epsilon
            np.divide(mean, scratch, out=scratch)
            scratch *= rate
            value -= scratch
        return norm


def _views(flat: Array, parameters: Mapping[str, Array]) -> dict[str, Array]:
    views, start = {}, 0
    for name, array in parameters.items():
        views[name] = flat[start : start + array.size].reshape(array.shape)
        start += array.size
    return views
