"""The cell contract: what a recurrent cell is, apart from the sequence that it runs over.

A cell sees one step of B rows. Its gates come in as two affine maps, which stay apart because the
GRU needs them so:

    gx = W_ih x + b_ih        gh = W_hh h + b_hh        G arrays (B, H) each, one a gate

`sequence.py` makes those products, and it alone knows of time, lengths, masks, resets and
direction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Arrays = Sequence[Array]


def sigmoid(a: Array) -> Array:
    """1 / (1 + exp(-a)), precise at both ends: exp sees no positive number and never overflows."""
    e = np.exp(-np.abs(a))
    return np.where(a >= 0, 1.0, e) / (1.0 + e)


def no_early_forward(gx: Arrays, gh: Arrays, prev: Arrays) -> tuple[Arrays, Array]:
    """Most cells: no gate is computed early, and what w_hh multiplies is h itself."""
    return (), prev[0]


def no_early_backward(
    prev: Arrays, reserve: Arrays, dgates: Arrays, dprev: Arrays, d_operand: Array
) -> tuple[Arrays, Arrays]:
    """Backward of `no_early_forward`: the gradient of what w_hh multiplies is a gradient of h."""
    return dgates, (dprev[0] + d_operand, *dprev[1:])


@dataclass(frozen=True)
class Cell:
    """A cell: its sizes, and its equations as functions of arrays (B, H).

    forward(gx[gates], gh[gates], prev[states], *early) -> curr[states], reserve
        One step. A state is (h,) or (h, c). The reserve is what backward needs beside the states.
    backward(prev, curr, reserve, dcurr) -> dgates[slots], dprev[states]
        Given dcurr = dL/dcurr, the gradients of the gates before their activation, and the part of
        dL/dprev that bypasses w_hh.
    slot_x[g], slot_h[g]
        Which of dgates is dL/dgx[g], and which is dL/dgh[g].

    A cell whose first gates make the operand of the others' rows of w_hh has early > 0 gates and

    forward_early(gx, gh[:early], prev) -> early, operand
        The early gates, handed on to forward, and what the remaining rows of w_hh multiply.
    backward_early(prev, reserve, dgates, dprev, d_operand) -> dgates, dprev
        What backward returned, with what came back through the operand.
    """

    name: str
    gates: int
    states: int
    slot_x: tuple[int, ...]
    slot_h: tuple[int, ...]
    forward: Callable[..., tuple[Arrays, Arrays]]
    backward: Callable[[Arrays, Arrays, Arrays, Arrays], tuple[Arrays, Arrays]]
    early: int = 0
    forward_early: Callable[[Arrays, Arrays, Arrays], tuple[Arrays, Array]] = no_early_forward
    backward_early: Callable[[Arrays, Arrays, Arrays, Arrays, Array], tuple[Arrays, Arrays]] = (
        no_early_backward
    )
