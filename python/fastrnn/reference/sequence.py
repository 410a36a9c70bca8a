"""Any cell over a sequence: forward, and back-propagation through time (Werbos, "Backpropagation
Through Time: What It Does and How to Do It", Proc. IEEE 78(10), 1990).

Sizes: T steps, B rows, I inputs, H hidden units, G gates. The options:

    lengths   Row b is valid at t < lengths[b]. Elsewhere nothing is read, y is 0, the state stays.
    mask      A valid row whose mask is False skips the step: its x is not read, and its state
              (hence its y) is carried over.
    reset     A valid row whose reset is True has its state set to zero before the step, whether or
              not it skips it.
    reverse   The steps are taken from the last to the first; y stays at its own time.

A step is computed for the rows that take it and for no others, so nothing leaks from the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .cell import Array, Arrays, Cell

Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Problem:
    """A checked call, time-major and in float64; a bias or initial state not given is zero."""

    cell: Cell
    x: Array  # (T, B, I)
    w_ih: Array  # (G*H, I)
    w_hh: Array  # (G*H, H)
    b_ih: Array  # (G*H,)
    b_hh: Array  # (G*H,)
    initial: Arrays  # h0 (B, H), and c0 where the cell has one
    valid: Bools  # (T, B): t < lengths[b]
    mask: Bools  # (T, B)
    reset: Bools  # (T, B)
    reverse: bool

    @property
    def hidden(self) -> int:
        """H."""
        return int(self.w_hh.shape[1])

    @property
    def early(self) -> int:
        """Rows of w_hh that multiply h itself because their gates are early."""
        return self.cell.early * self.hidden


@dataclass(frozen=True)
class Step:
    """What backward needs of one step: the rows that took it, and their arrays (rows, H)."""

    t: int
    rows: Rows
    prev: Arrays
    curr: Arrays
    reserve: Arrays
    operand: Array  # what w_hh multiplied, early gates' rows apart: h, or r h


@dataclass(frozen=True)
class Gradients:
    """dL/dv for each v of Problem, of the shape of v."""

    x: Array
    w_ih: Array
    w_hh: Array
    b_ih: Array
    b_hh: Array
    initial: Arrays


def forward(p: Problem, steps: list[Step] | None = None) -> tuple[Arrays, Arrays]:
    """Return the states at every step, each (T, B, H), and the final states, each (B, H).

    What backward needs is appended to `steps`, if it is given.
    """
    T, B, _ = p.x.shape
    H = p.hidden
    sequence = tuple(np.zeros((T, B, H)) for _ in p.initial)
    state = tuple(s.copy() for s in p.initial)
    for t in reversed(range(T)) if p.reverse else range(T):
        rows = np.flatnonzero(p.valid[t] & p.mask[t])
        for s in state:
            s[p.valid[t] & p.reset[t]] = 0.0
        step = forward_step(p, t, rows, tuple(s[rows] for s in state))
        for s, curr, out in zip(state, step.curr, sequence, strict=True):
            s[rows] = curr
            out[t, p.valid[t]] = s[p.valid[t]]
        if steps is not None:
            steps.append(step)
    return sequence, state


def forward_step(p: Problem, t: int, rows: Rows, prev: Arrays) -> Step:
    """One step of the rows given, from their states prev (rows, H)."""
    e = p.early
    gx = by_gate(p, p.x[t, rows] @ p.w_ih.T + p.b_ih)
    gh = prev[0] @ p.w_hh[:e].T + p.b_hh[:e]
    early, operand = p.cell.forward_early(gx, by_gate(p, gh), prev)
    gh = np.hstack([gh, operand @ p.w_hh[e:].T + p.b_hh[e:]])
    curr, reserve = p.cell.forward(gx, by_gate(p, gh), prev, *early)
    return Step(t, rows, prev, curr, reserve, operand)


def backward(p: Problem, steps: list[Step], dy: Array, dfinal: Arrays) -> Gradients:
    """Back-propagate dL/dy (T, B, H), read only where valid, and dL/d(final states)."""
    dx, dw_ih, dw_hh = np.zeros_like(p.x), np.zeros_like(p.w_ih), np.zeros_like(p.w_hh)
    db_ih, db_hh = np.zeros_like(p.b_ih), np.zeros_like(p.b_hh)
    dstate = tuple(d.copy() for d in dfinal)
    e = p.early
    for step in reversed(steps):
        t, rows, prev = step.t, step.rows, step.prev
        dstate[0][p.valid[t]] += dy[t, p.valid[t]]
        dgx, dgh, dprev = backward_step(p, step, tuple(d[rows] for d in dstate))

        dx[t, rows] = dgx @ p.w_ih
        dw_ih += dgx.T @ p.x[t, rows]
        dw_hh[:e] += dgh[:, :e].T @ prev[0]
        dw_hh[e:] += dgh[:, e:].T @ step.operand
        db_ih += dgx.sum(axis=0)
        db_hh += dgh.sum(axis=0)

        for d, dp in zip(dstate, dprev, strict=True):
            d[rows] = dp
            d[p.valid[t] & p.reset[t]] = 0.0
    return Gradients(dx, dw_ih, dw_hh, db_ih, db_hh, dstate)


def backward_step(p: Problem, step: Step, dcurr: Arrays) -> tuple[Array, Array, Arrays]:
    """dL/d(states after the step) -> dL/dgx, dL/dgh (rows, G*H), dL/d(states before the step)."""
    e = p.early
    dgates, dprev = p.cell.backward(step.prev, step.curr, step.reserve, dcurr)
    d_operand = np.hstack([dgates[s] for s in p.cell.slot_h])[:, e:] @ p.w_hh[e:]
    dgates, dprev = p.cell.backward_early(step.prev, step.reserve, dgates, dprev, d_operand)
    dgx = np.hstack([dgates[s] for s in p.cell.slot_x])
    dgh = np.hstack([dgates[s] for s in p.cell.slot_h])
    dh, *others = dprev
    return dgx, dgh, (dh + dgh[:, :e] @ p.w_hh[:e], *others)


def by_gate(p: Problem, gates: Array) -> Arrays:
    """(rows, n*H) -> n arrays (rows, H), one a gate."""
    H = p.hidden
    return [gates[:, k : k + H] for k in range(0, gates.shape[1], H)]
