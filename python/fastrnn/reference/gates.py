"""What goes on around a gate, whatever the cell: its activation, the clip of its input (ONNX's
`clip`), the peephole to it (Gers & Schmidhuber, "Recurrent nets that time and count", IJCNN 2000;
Graves, arXiv:1308.0850, equations 7 to 11), and for c its clip and its normalisation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .activations import Activation
from .cell import Array
from .norm import Normalised, normalise


@dataclass(frozen=True)
class Gates:
    """The last of the activations, of a cell that has one more than gates, is that of its output.

    layer_norm   None; "output": of c where the output is made of it; "state": c itself
    """

    activations: tuple[Activation, ...]
    clip: float = np.inf
    cell_clip: float = np.inf
    peephole: Array | None = None  # (number of sigmoid gates, H)
    layer_norm: str | None = None
    gain_c: Array | None = None  # (H,)
    bias_c: Array | None = None  # (H,)
    eps: float = 1e-5
    grad_clip: float = np.inf

    def value(self, gate: int, a: Array) -> Array:
        return self.activations[gate].value(np.clip(a, -self.clip, self.clip))

    def slope(self, gate: int, a: Array) -> Array:
        """d value / da: 0 where the clip acts."""
        inside = np.abs(a) <= self.clip
        return self.activations[gate].slope(np.clip(a, -self.clip, self.clip)) * inside

    def gradient(self, gate: int, a: Array, d: Array) -> Array:
        """dL/d(value) -> dL/da, bounded (Graves, arXiv:1308.0850, section 2.1)."""
        return np.clip(d * self.slope(gate, a), -self.grad_clip, self.grad_clip)

    def weight(self, n: int) -> Array | float:
        """The n-th peephole's weights; 0 without peepholes."""
        return 0.0 if self.peephole is None else self.peephole[n]

    def clipped(self, c: Array) -> tuple[Array, Array]:
        """c within the clip, and its derivative."""
        return np.clip(c, -self.cell_clip, self.cell_clip), np.where(
            np.abs(c) <= self.cell_clip, 1.0, 0.0
        )

    def normalised(self, c: Array, where: str) -> tuple[Array, Normalised | None]:
        """c normalised, if this is `where` that is to be."""
        if self.layer_norm != where:
            return c, None
        norm = normalise(c, self.eps)
        assert self.gain_c is not None
        assert self.bias_c is not None
        return norm.value * self.gain_c + self.bias_c, norm

    def denormalised(
        self, d: Array, norm: Normalised | None, parameters: dict[str, Array]
    ) -> Array:
        """Backward of `normalised`; the gradients of gain_c and bias_c go to `parameters`."""
        if norm is None or self.gain_c is None:
            return d
        parameters["gain_c"] = (d * norm.value).sum(axis=0)
        parameters["bias_c"] = d.sum(axis=0)
        return norm.backward(d * self.gain_c)
