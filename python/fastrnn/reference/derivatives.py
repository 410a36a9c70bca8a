"""Derivatives of forward and of backward along a direction, and backward through backward: the
reference's equations on dual numbers.

Let y = F(a) be a forward function of its arguments a, and g = B(a, dy) = F'(a)^T dy its backward.

    jvp                ty = F'(a) t                               forward mode
    backward_jvp       tg = dB(a, dy) (t, tdy)                    forward mode over backward
    double_backward    (u^T dB/da, u^T dB/ddy)                    backward of backward

The last one needs no equation of its own: u^T B(a, dy) = dy^T F'(a) u, so that its derivative
along dy is F'(a) u, a jvp, and that along a is the derivative of F'(a)^T dy along u, a
backward_jvp: second derivatives commute (Pearlmutter, "Fast exact multiplication by the Hessian",
Neural Computation 6(1), 1994).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from . import sequence
from .cell import Array
from .check import Check
from .dual import Dual
from .functional import (
    FamilyGradients,
    GRUGradients,
    LSTMGradients,
    RNNGradients,
    Saved,
    as_results,
    checked_cotangents,
    checked_saved,
    extended,
)

Directions = Mapping[str, npt.ArrayLike | None]
SHAPES = {
    **{"w_ih": ["GH", "I"], "w_hh": ["GH", "P"], "b_ih": ["GH"], "b_hh": ["GH"]},
    **{"h0": ["B", "P"], "c0": ["B", "H"], "w_hr": ["P", "H"], "peephole": ["peepholes", "H"]},
    **{"gain_ih": ["GH"], "gain_hh": ["GH"], "gain_c": ["H"], "bias_c": ["H"]},
}
COTANGENTS = ("dy", "dh_n", "dc_n", "dgates")


def lstm_jvp(saved: Saved | None, tangents: Directions) -> tuple[Any, ...]:
    """The derivative of `lstm_forward` along a direction.

    tangents: by the name of an argument of forward (x, w_ih, w_hh, b_ih, b_hh, h0, c0, w_hr,
    peephole, and of a layer norm gain_ih, gain_hh, gain_c, bias_c) its direction, of its shape; one
    left out, or None, is zero -> the derivatives of y and (h_n, c_n), and of the gates' values
    after return_gates.

    ValueError if a name is none of an argument that was given (h0 and c0 have one in any case), or
    a shape does not fit; TypeError if saved is not what `lstm_forward` returned, or a dtype does
    not fit.
    """
    return _jvp("lstm", saved, tangents)


def gru_jvp(saved: Saved | None, tangents: Directions) -> tuple[Any, ...]:
    """The derivative of `gru_forward` along a direction; as `lstm_jvp`, c0 and c_n with w_hr."""
    return _jvp("gru", saved, tangents)


def rnn_jvp(saved: Saved | None, tangents: Directions) -> tuple[Any, ...]:
    """The derivative of `rnn_forward` along a direction; as `lstm_jvp`, without c."""
    return _jvp("rnn", saved, tangents)


def lstm_backward_jvp(
    saved: Saved | None,
    tangents: Directions,
    dy: npt.ArrayLike | None,
    dh_n: npt.ArrayLike | None = None,
    dc_n: npt.ArrayLike | None = None,
    *,
    dgates: npt.ArrayLike | None = None,
    grad_clip: float | None = None,
) -> LSTMGradients | FamilyGradients:
    """The derivative of `lstm_backward` along a direction of the arguments of forward and of
    backward: tangents as in `lstm_jvp`, and dy, dh_n, dc_n and dgates, of which the others are the
    values. The result is named as the gradients whose derivatives it holds.
    """
    final = {"dh_n": dh_n, "dc_n": dc_n}
    g = _backward_jvp("lstm", saved, tangents, dy, final, dgates, grad_clip)
    return g if extended(saved, dgates, grad_clip, False) else LSTMGradients(*g[:7])  # type: ignore[arg-type]


def gru_backward_jvp(
    saved: Saved | None,
    tangents: Directions,
    dy: npt.ArrayLike | None,
    dh_n: npt.ArrayLike | None = None,
    dc_n: npt.ArrayLike | None = None,
    *,
    dgates: npt.ArrayLike | None = None,
    grad_clip: float | None = None,
) -> GRUGradients | FamilyGradients:
    """The derivative of `gru_backward` along a direction; as `lstm_backward_jvp`."""
    final = {"dh_n": dh_n, "dc_n": dc_n}
    g = _backward_jvp("gru", saved, tangents, dy, final, dgates, grad_clip)
    return g if extended(saved, dgates, grad_clip, False) else GRUGradients(*g[:6])


def rnn_backward_jvp(
    saved: Saved | None,
    tangents: Directions,
    dy: npt.ArrayLike | None,
    dh_n: npt.ArrayLike | None = None,
    *,
    dgates: npt.ArrayLike | None = None,
    grad_clip: float | None = None,
) -> RNNGradients | FamilyGradients:
    """The derivative of `rnn_backward` along a direction; as `lstm_backward_jvp`, without c."""
    g = _backward_jvp("rnn", saved, tangents, dy, {"dh_n": dh_n}, dgates, grad_clip)
    return g if extended(saved, dgates, grad_clip, False) else RNNGradients(*g[:6])


def lstm_double_backward(
    saved: Saved | None,
    cotangents: Directions,
    dy: npt.ArrayLike | None,
    dh_n: npt.ArrayLike | None = None,
    dc_n: npt.ArrayLike | None = None,
    *,
    dgates: npt.ArrayLike | None = None,
) -> tuple[LSTMGradients | FamilyGradients, tuple[Any, ...]]:
    """Backward through `lstm_backward`.

    cotangents: by the name of a gradient (dx, dw_ih, ..) what comes to it, of its shape; one left
    out, or None, is zero -> the gradients of the arguments of forward, as `lstm_backward` names
    them, and those of the arguments of backward: dy and (dh_n, dc_n), and of dgates after
    return_gates. There is no grad_clip: clipped gradients are those of no function.
    """
    u = directions_of("lstm_double_backward", cotangents)
    g = lstm_backward_jvp(saved, u, dy, dh_n, dc_n, dgates=dgates)
    return g, lstm_jvp(saved, u)


def gru_double_backward(
    saved: Saved | None,
    cotangents: Directions,
    dy: npt.ArrayLike | None,
    dh_n: npt.ArrayLike | None = None,
    dc_n: npt.ArrayLike | None = None,
    *,
    dgates: npt.ArrayLike | None = None,
) -> tuple[GRUGradients | FamilyGradients, tuple[Any, ...]]:
    """Backward through `gru_backward`; as `lstm_double_backward`, dc_n with w_hr alone."""
    u = directions_of("gru_double_backward", cotangents)
    g = gru_backward_jvp(saved, u, dy, dh_n, dc_n, dgates=dgates)
    return g, gru_jvp(saved, u)


def rnn_double_backward(
    saved: Saved | None,
    cotangents: Directions,
    dy: npt.ArrayLike | None,
    dh_n: npt.ArrayLike | None = None,
    *,
    dgates: npt.ArrayLike | None = None,
) -> tuple[RNNGradients | FamilyGradients, tuple[Any, ...]]:
    """Backward through `rnn_backward`; as `lstm_double_backward`, without c."""
    u = directions_of("rnn_double_backward", cotangents)
    g = rnn_backward_jvp(saved, u, dy, dh_n, dgates=dgates)
    return g, rnn_jvp(saved, u)


def directions_of(function: str, cotangents: Directions) -> Directions:
    """What comes to the gradient of an argument is a direction of the argument."""
    for name in cotangents:
        if name not in ("dx", *(f"d{argument}" for argument in SHAPES)):
            raise ValueError(f"{function}: cotangents must be of gradients, got {name!r}")
    return {name[1:]: value for name, value in cotangents.items()}


def _jvp(family: str, saved: Saved | None, tangents: Directions) -> tuple[Any, ...]:
    saved = checked_saved(f"{family}_jvp", family, saved)
    p = dual_problem(f"{family}_jvp", saved, tangents)
    states, final, gates = tangent_of(sequence.forward(p))
    y, gates = (a.swapaxes(0, 1) if saved.batch_first else a for a in (states[0], gates))
    state = final if len(final) > 1 else final[0]
    return y, state, *((gates,) if saved.features.return_gates else ())


def _backward_jvp(
    family: str,
    saved: Saved | None,
    tangents: Directions,
    dy: npt.ArrayLike | None,
    dfinal: dict[str, npt.ArrayLike | None],
    dgates: npt.ArrayLike | None,
    grad_clip: float | None,
) -> FamilyGradients:
    function = f"{family}_backward_jvp"
    saved = checked_saved(function, family, saved)
    of_forward = {n: t for n, t in tangents.items() if n not in COTANGENTS}
    p = dual_problem(function, saved, of_forward)
    tdfinal = {name: tangents.get(name) for name in ("dh_n", "dc_n")[: max(len(dfinal), 1)]}
    values = checked_cotangents(function, saved, dy, dfinal, dgates, grad_clip)
    of_them = checked_cotangents(
        f"{function}: tangents", saved, tangents.get("dy"), tdfinal, tangents.get("dgates"), None
    )
    gates = None
    if values[2] is not None or of_them[2] is not None:
        shape = (*p.valid.shape, p.cell.gates, p.hidden)
        value, tangent = (np.zeros(shape) if a is None else a for a in (values[2], of_them[2]))
        gates = Dual(value, tangent)
    steps: list[sequence.Step] = []
    sequence.forward(p, steps)
    dstates = tuple(Dual(d, t) for d, t in zip(values[1], of_them[1], strict=True))
    g: Any = sequence.backward(p, steps, Dual(values[0], of_them[0]), dstates, gates, values[3])  # type: ignore[arg-type]
    results = {f.name: tangent_of(getattr(g, f.name)) for f in fields(g)}
    return as_results(saved, sequence.Gradients(**results), False)


def tangent_of(a: Any) -> Any:
    if isinstance(a, tuple):
        return tuple(tangent_of(part) for part in a)
    if isinstance(a, dict):
        return {name: tangent_of(part) for name, part in a.items()}
    return a.tangent if isinstance(a, Dual) else a


def dual_problem(function: str, saved: Saved, tangents: Directions) -> Any:
    """The problem of a forward call, its arguments dual numbers."""
    p, k = saved.problem, saved.problem.gates
    T, B, inputs = p.x.shape
    P = p.w_hh.shape[1]
    check = Check(
        f"{function}: tangents",
        {"T": T, "B": B, "I": inputs, "H": p.hidden, "P": P, "GH": len(p.w_hh)},
    )
    values: dict[str, Array | None] = {
        "x": p.x.swapaxes(0, 1) if saved.batch_first else p.x,
        **{name: getattr(p, name) for name in ("w_ih", "w_hh", "w_hr", "gain_ih", "gain_hh")},
        **{name: getattr(k, name) for name in ("peephole", "gain_c", "bias_c")},
        "b_ih": p.b_ih if saved.has_b_ih else None,
        "b_hh": p.b_hh if saved.has_b_hh else None,
        **dict(zip(("h0", "c0"), p.initial, strict=False)),
    }
    if k.peephole is not None:
        check.sizes["peepholes"] = len(k.peephole)
    shapes = {"x": ["B", "T", "I"] if saved.batch_first else ["T", "B", "I"], **SHAPES}
    duals: dict[str, Any] = {}
    for name, given in tangents.items():
        value = values.get(name)
        if value is None:
            known = ", ".join(n for n, v in values.items() if v is not None)
            raise ValueError(f"{function}: tangents must be of arguments ({known}), got {name!r}")
        if given is not None:
            duals[name] = Dual(value.copy(), check.real(name, given, shapes[name]))
    for name, value in values.items():
        if value is not None and name not in duals:
            duals[name] = Dual(value.copy(), np.zeros_like(value))
    if saved.batch_first:
        duals["x"] = duals["x"].swapaxes(0, 1)
    if p.kept_weights is not None:
        duals["w_hh"].tangent = duals["w_hh"].tangent * p.kept_weights
    of_gates: dict[str, Any] = {n: duals.get(n) for n in ("peephole", "gain_c", "bias_c")}
    of_problem: dict[str, Any] = {
        name: duals[name]
        for name in ("x", "w_ih", "w_hh", "w_hr", "gain_ih", "gain_hh", "b_ih", "b_hh")
        if name in duals
    }
    for name in ("b_ih", "b_hh"):
        zero = getattr(p, name)
        of_problem.setdefault(name, Dual(zero.copy(), np.zeros_like(zero)))
    initial = tuple(duals[name] for name in ("h0", "c0")[: len(p.initial)])
    return replace(p, gates=replace(k, **of_gates), initial=initial, **of_problem)
