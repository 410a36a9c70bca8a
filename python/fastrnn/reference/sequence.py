"""Any cell over a sequence: forward, and back-propagation through time (Werbos, "Backpropagation
Through Time: What It Does and How to Do It", Proc. IEEE 78(10), 1990).

Sizes: T steps, B rows, I inputs, H hidden units, P units of h (H, or less with a projection), G
gates. The options:

    lengths   Row b is valid at t < lengths[b]. Elsewhere nothing is read, y is 0, the state stays.
    mask      A valid row whose mask is False skips the step: its x is not read, and its state
              (hence its y) is carried over.
    reset     A valid row whose reset is True has its state set to zero before the step, whether or
              not it skips it.
    reverse   The steps are taken from the last to the first; y stays at its own time.

One step of a row, with every feature:

    hidden = h_(t-1) * kept                        recurrent dropout; kept is the same at every step
    gx = W_ih x_t, gh = W_hh hidden                each normalised over its own outputs if asked for
    gx = gain_ih gx + b_ih, gh = gain_hh gh + b_hh
    m, c = cell(gx, gh, state)
    h = W_hr m                                     projection; the GRU keeps m, as its c
    h_t = z_h h_(t-1) + (1 - z_h) h                zoneout, and of c in the same way: z is 0 or 1,
                                                   in evaluation the probability of 1

Dropout: Gal & Ghahramani, arXiv:1512.05287. Zoneout: Krueger et al., arXiv:1606.01305; as there, h
is made of the new c. Projection: Sak, Senior & Beaufays, arXiv:1402.1128. Normalisation: Ba, Kiros
& Hinton, arXiv:1607.06450.

A step is computed for the rows that take it and for no others, so nothing leaks from the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from .cell import Array, Arrays, Cell, Parameters
from .gates import Gates
from .norm import Normalised, normalise

Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Problem:
    """A checked call, time-major and in float64; a bias or initial state not given is zero."""

    cell: Cell
    gates: Gates
    x: Array  # (T, B, I)
    w_ih: Array  # (G*H, I)
    w_hh: Array  # (G*H, P)  times what DropConnect keeps
    b_ih: Array  # (G*H,)
    b_hh: Array  # (G*H,)
    initial: Arrays  # h0 (B, P), and c0 (B, H) where there is one
    valid: Bools  # (T, B): t < lengths[b]
    mask: Bools  # (T, B)
    reset: Bools  # (T, B)
    reverse: bool
    w_hr: Array | None = None  # (P, H)
    gain_ih: Array | None = None  # (G*H,)
    gain_hh: Array | None = None  # (G*H,)
    kept: Array | None = None  # (B, P)    recurrent dropout
    zoneout: tuple[Array | None, ...] = (None, None)  # (T, B, P), (T, B, H)
    kept_weights: Array | None = None  # (G*H, P)

    @property
    def hidden(self) -> int:
        """H."""
        return len(self.w_hh) // self.cell.gates

    @property
    def early(self) -> int:
        """Rows of w_hh that multiply h itself because their gates are early."""
        return self.cell.early * self.hidden

    @property
    def keeps_output(self) -> bool:
        """The cell's own state is its unprojected output, which is carried as c."""
        return len(self.initial) > self.cell.states


@dataclass(frozen=True)
class Step:
    """What backward needs of one step: the rows that took it, and their arrays (rows, ...)."""

    t: int
    rows: Rows
    prev: Arrays  # the states before
    hidden: Array  # what the early rows of w_hh multiplied
    operand: Array  # what the others did: the same, or r times it
    norms: tuple[Normalised | None, Normalised | None, Normalised | None]  # of gx, gh early, late
    output: Array  # m
    kept: Arrays  # by forward_early
    reserve: Arrays
    new: Arrays  # the states after, before zoneout
    values: Arrays  # of the gates


@dataclass
class Gradients:
    """dL/dv for each v of Problem, of the shape of v; parameters by their names in Gates."""

    x: Array
    w_ih: Array
    w_hh: Array
    b_ih: Array
    b_hh: Array
    initial: Arrays
    w_hr: Array | None
    gain_ih: Array | None
    gain_hh: Array | None
    step_norms: Array  # (T, B)
    parameters: Parameters = field(default_factory=dict)


def forward(p: Problem, steps: list[Step] | None = None) -> tuple[Arrays, Arrays, Array]:
    """Return the states at every step, each (T, B, units), the final states and the gates' values
    (T, B, G, H), 0 where no step is taken.

    What backward needs is appended to `steps`, if it is given.
    """
    T, B, _ = p.x.shape
    sequence = tuple(np.zeros_like(s, shape=(T, *s.shape)) for s in p.initial)
    values = np.zeros_like(p.x, shape=(T, B, p.cell.gates, p.hidden))
    state = tuple(s.copy() for s in p.initial)
    for t in reversed(range(T)) if p.reverse else range(T):
        rows = np.flatnonzero(p.valid[t] & p.mask[t])
        for s in state:
            s[p.valid[t] & p.reset[t]] = 0.0
        step = forward_step(p, t, rows, tuple(s[rows] for s in state))
        for s, curr, out in zip(state, zoned_out(p, step), sequence, strict=True):
            s[rows] = curr
            out[t, p.valid[t]] = s[p.valid[t]]
        values[t, rows] = np.stack(step.values, axis=1)
        if steps is not None:
            steps.append(step)
    return sequence, state, values


def forward_step(p: Problem, t: int, rows: Rows, prev: Arrays) -> Step:
    """One step of the rows given, from their states prev (rows, units)."""
    e, k = p.early, p.gates
    hidden = prev[0] if p.kept is None else prev[0] * p.kept[rows]
    gx, norm_x = scaled(p, p.x[t, rows] @ p.w_ih.T, p.gain_ih, p.b_ih)
    gain_early, gain_late = (None, None) if p.gain_hh is None else (p.gain_hh[:e], p.gain_hh[e:])
    gh, norm_early = scaled(p, hidden @ p.w_hh[:e].T, gain_early, p.b_hh[:e])
    early, operand, kept = p.cell.forward_early(k, by_gate(p, gx), by_gate(p, gh), hidden)
    gh_late, norm_late = scaled(p, operand @ p.w_hh[e:].T, gain_late, p.b_hh[e:])
    gh = np.hstack([gh, gh_late])
    own = prev[1:] if p.keeps_output else prev
    curr, reserve, values = p.cell.forward(k, by_gate(p, gx), by_gate(p, gh), own, *early)
    h = curr[0] if p.w_hr is None else curr[0] @ p.w_hr.T
    new = (h, curr[0]) if p.keeps_output else (h, *curr[1:])
    norms = norm_x, norm_early, norm_late
    return Step(t, rows, prev, hidden, operand, norms, curr[0], kept, reserve, new, values)


def scaled(
    p: Problem, product: Array, gain: Array | None, bias: Array
) -> tuple[Array, Normalised | None]:
    if gain is None or not len(gain):
        return product + bias, None
    norm = normalise(product, p.gates.eps)
    return norm.value * gain + bias, norm


def zoned_out(p: Problem, step: Step) -> Arrays:
    """The states after the step."""
    return [
        new if z is None else z[step.t, step.rows] * prev + (1.0 - z[step.t, step.rows]) * new
        for z, prev, new in zip(p.zoneout, step.prev, step.new, strict=False)
    ]


def backward(
    p: Problem,
    steps: list[Step],
    dy: Array,
    dfinal: Arrays,
    dvalues: Array | None = None,
    clip: float = np.inf,
    dc: Array | None = None,
) -> Gradients:
    """Back-propagate dL/dy (T, B, P), dL/d(c at every step) (T, B, H), both read only where valid,
    dL/d(final states) and dL/d(values of the gates).

    clip bounds the gradients of the gates before their activation at every step (Graves,
    arXiv:1308.0850, section 2.1).
    """
    g = Gradients(
        x=np.zeros_like(p.x),
        w_ih=np.zeros_like(p.w_ih),
        w_hh=np.zeros_like(p.w_hh),
        b_ih=np.zeros_like(p.b_ih),
        b_hh=np.zeros_like(p.b_hh),
        initial=tuple(d.copy() for d in dfinal),
        w_hr=None if p.w_hr is None else np.zeros_like(p.w_hr),
        gain_ih=None if p.gain_ih is None else np.zeros_like(p.gain_ih),
        gain_hh=None if p.gain_hh is None else np.zeros_like(p.gain_hh),
        step_norms=np.zeros_like(p.x, shape=p.valid.shape),
    )
    for name in ("peephole", "gain_c", "bias_c"):
        value = getattr(p.gates, name)
        if value is not None:
            g.parameters[name] = np.zeros_like(value)
    dstate, k = g.initial, replace(p.gates, grad_clip=clip)
    for step in reversed(steps):
        t, rows = step.t, step.rows
        dstate[0][p.valid[t]] += dy[t, p.valid[t]]
        if dc is not None:
            dstate[1][p.valid[t]] += dc[t, p.valid[t]]
        g.step_norms[t, p.valid[t]] = np.linalg.norm(dstate[0][p.valid[t]], axis=1)
        of_gates = np.zeros_like(p.x, shape=(len(rows), p.cell.gates, p.hidden))
        if dvalues is not None:
            of_gates = dvalues[t, rows]
        dprev = backward_step(p, k, step, tuple(d[rows] for d in dstate), of_gates, g)
        for d, dp in zip(dstate, dprev, strict=True):
            d[rows] = dp
            d[p.valid[t] & p.reset[t]] = 0.0
    if p.kept_weights is not None:
        g.w_hh *= p.kept_weights
    return g


def backward_step(
    p: Problem, k: Gates, step: Step, dcurr: Arrays, dvalues: Array, g: Gradients
) -> Arrays:
    """dL/d(states after the step) -> dL/d(states before it); what else there is is added to g."""
    e, t, rows = p.early, step.t, step.rows
    of_gates = [dvalues[:, n] for n in range(p.cell.gates)]
    kept_old = [np.zeros(()) if z is None else z[t, rows] for z in p.zoneout]
    dnew = [(1.0 - z) * d for z, d in zip(kept_old, dcurr, strict=False)]
    doutput = dnew[0]
    if p.w_hr is not None:
        assert g.w_hr is not None
        g.w_hr += dnew[0].T @ step.output
        doutput = dnew[0] @ p.w_hr
    own = (doutput + dnew[1],) if p.keeps_output else (doutput, *dnew[1:])
    prev = step.prev[1:] if p.keeps_output else step.prev

    dgates, down, parameters = p.cell.backward(k, prev, step.reserve, own, of_gates)
    for name in g.parameters:
        g.parameters[name] += parameters[name]
    dgh_late = np.hstack([dgates[s] for s in p.cell.slot_h])[:, e:]
    late = unscaled(dgh_late, p.gain_hh, slice(e, None), step.norms[2], g.gain_hh)
    dgates, dhidden = p.cell.backward_early(
        k, step.hidden, step.kept, dgates, late @ p.w_hh[e:], of_gates
    )
    dgx = np.hstack([dgates[s] for s in p.cell.slot_x])
    dgh = np.hstack([dgates[s] for s in p.cell.slot_h])
    early = unscaled(dgh[:, :e], p.gain_hh, slice(0, e), step.norms[1], g.gain_hh)
    x = unscaled(dgx, p.gain_ih, slice(None), step.norms[0], g.gain_ih)
    dhidden = dhidden + early @ p.w_hh[:e]

    g.x[t, rows] = x @ p.w_ih
    g.w_ih += x.T @ p.x[t, rows]
    g.w_hh[:e] += early.T @ step.hidden
    g.w_hh[e:] += late.T @ step.operand
    g.b_ih += dgx.sum(axis=0)
    g.b_hh += dgh.sum(axis=0)

    dprev = [z * d for z, d in zip(kept_old, dcurr, strict=False)]
    dprev[0] = dprev[0] + (dhidden if p.kept is None else dhidden * p.kept[rows])
    for n, d in enumerate(down, start=1 if p.keeps_output else 0):
        dprev[n] = dprev[n] + d
    return dprev


def unscaled(
    d: Array, gain: Array | None, part: slice, norm: Normalised | None, dgain: Array | None
) -> Array:
    """Backward of `scaled`: dL/d(product); the gradient of the gain is added to dgain[part]."""
    if norm is None or gain is None or dgain is None:
        return d
    dgain[part] += (d * norm.value).sum(axis=0)
    return norm.backward(d * gain[part])


def by_gate(p: Problem, gates: Array) -> Arrays:
    """(rows, n*H) -> n arrays (rows, H), one a gate."""
    H = p.hidden
    return [gates[:, k : k + H] for k in range(0, gates.shape[1], H)]
