"""The cell contract: what a recurrent cell is, apart from the sequence that it runs over.

A cell sees one step of B rows. Its gates come in as two affine maps, which stay apart because the
GRU needs them so:

    gx = W_ih x + b_ih        gh = W_hh h + b_hh        G arrays (B, H) each, one a gate

`gates.py` has what goes on around a gate whatever the cell: activation, clip, peephole.
`sequence.py` makes the products, and it alone knows of time, lengths, masks, resets, direction,
projection, dropout and zoneout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .activations import Activation
from .activations import Array as Array

if TYPE_CHECKING:
    from .gates import Gates

Arrays = Sequence[Array]
Parameters = dict[str, Array]  # gradients of what Gates holds, by its name there

NOTHING: Array = np.zeros(())  # of dL/dprev: all of it goes through w_hh


def no_early_forward(
    k: Gates, gx: Arrays, gh: Arrays, hidden: Array
) -> tuple[Arrays, Array, Arrays]:
    """Most cells: no gate is computed early, and what w_hh multiplies is h itself."""
    return (), hidden, ()


def no_early_backward(
    k: Gates, hidden: Array, kept: Arrays, dgates: Arrays, d_operand: Array, dvalues: Arrays
) -> tuple[Arrays, Array]:
    """Backward of `no_early_forward`: the gradient of what w_hh multiplies is a gradient of h."""
    return dgates, d_operand


@dataclass(frozen=True)
class Cell:
    """A cell: its sizes, and its equations as functions of arrays (B, H).

    forward(k, gx[gates], gh[gates], prev[states], *early) -> curr[states], reserve, values[gates]
        One step. A state is (h,) or (h, c). The reserve is what backward needs beside prev; values
        are the gates after their activation.
    backward(k, prev, reserve, dcurr, dvalues) -> dgates[slots], dprev[states], parameters
        Given dcurr = dL/dcurr and what else comes to the gates' values, the gradients of the gates
        before their activation, the part of dL/dprev that bypasses w_hh, and the gradients of the
        parameters in k.
    slot_x[g], slot_h[g]
        Which of dgates is dL/dgx[g], and which is dL/dgh[g].
    activations
        Of each gate, and of the output if k is asked for it.

    A cell whose first gates make the operand of the others' rows of w_hh has early > 0 gates and

    forward_early(k, gx, gh[:early], hidden) -> early, operand, kept
        The early gates, handed on to forward, what the remaining rows of w_hh multiply, and what
        backward_early needs. hidden is h as w_hh sees it, after dropout.
    backward_early(k, hidden, kept, dgates, d_operand, dvalues) -> dgates, d_hidden
        What backward returned, with what came back through the operand.
    """

    name: str
    gates: int
    states: int
    slot_x: tuple[int, ...]
    slot_h: tuple[int, ...]
    forward: Callable[..., tuple[Arrays, Arrays, Arrays]]
    backward: Callable[[Gates, Arrays, Arrays, Arrays, Arrays], tuple[Arrays, Arrays, Parameters]]
    activations: tuple[Activation, ...]
    early: int = 0
    forward_early: Callable[[Gates, Arrays, Arrays, Array], tuple[Arrays, Array, Arrays]] = (
        no_early_forward
    )
    backward_early: Callable[
        [Gates, Array, Arrays, Arrays, Array, Arrays], tuple[Arrays, Array]
    ] = no_early_backward
