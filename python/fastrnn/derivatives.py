"""Forward mode and second derivatives of one layer over a sequence, in the compiled core.

For y = F(a), a forward function of its arguments, and g = B(a, dy), its backward:

* ``*_jvp``: F'(a) t, the derivative of forward along a direction t of its arguments
* ``*_backward_jvp``: the derivative of backward along a direction of all its arguments, those of
  forward included
* ``*_double_backward``: backward of backward, u B' for what comes to its results; second
  derivatives commute, so that it is a backward_jvp along u, and a jvp

Every cell, every option and every way of saving; the equations are those of forward and backward,
run on dual numbers. Each takes what a forward call saved; arrays and errors are those of
:mod:`fastrnn.functional`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastrnn import _core, checkpoint
from fastrnn.functional import (
    CELLS,
    FamilyGradients,
    GRUGradients,
    LSTMGradients,
    RNNGradients,
    checked_clip,
)
from fastrnn.reference.derivatives import directions_of

Array = Any  # NumPy's, or one that speaks DLPack
Directions = Mapping[str, Array | None]

__all__ = [
    "gru_backward_jvp",
    "gru_double_backward",
    "gru_jvp",
    "lstm_backward_jvp",
    "lstm_double_backward",
    "lstm_jvp",
    "rnn_backward_jvp",
    "rnn_double_backward",
    "rnn_jvp",
]


def lstm_jvp(saved: Any, tangents: Directions) -> Any:
    """The derivative of :func:`lstm_forward` along a direction (forward mode).

    ``tangents``: by the name of an argument of forward (x, w_ih, w_hh, b_ih, b_hh, h0, c0, w_hr,
    peephole, and of a layer norm gain_ih, gain_hh, gain_c, bias_c) its direction, of its shape; one
    left out, or None, is zero. h0 and c0 have one even where they were not given.
    -> the derivatives of y (T, B, H) and (h_n, c_n), and after ``return_gates`` of the gates.
    """
    return _results(_jvp("lstm", saved, tangents))


def gru_jvp(saved: Any, tangents: Directions) -> Any:
    """The derivative of :func:`gru_forward` along a direction; as :func:`lstm_jvp`, c0 and c_n with
    ``w_hr`` alone.
    """
    return _results(_jvp("gru", saved, tangents))


def rnn_jvp(saved: Any, tangents: Directions) -> Any:
    """The derivative of :func:`rnn_forward` along a direction; as :func:`lstm_jvp`, without c."""
    return _results(_jvp("rnn", saved, tangents))


def lstm_backward_jvp(
    saved: Any,
    tangents: Directions,
    dy: Array | None,
    dh_n: Array | None = None,
    dc_n: Array | None = None,
    *,
    dgates: Array | None = None,
    grad_clip: float | None = None,
) -> LSTMGradients | FamilyGradients:
    """The derivative of :func:`lstm_backward` along a direction (forward mode over backward).

    ``tangents``: as in :func:`lstm_jvp`, and also of dy, dh_n, dc_n and dgates. The others are the
    arguments of :func:`lstm_backward`. -> the derivatives of its results, under their names.
    """
    g, _ = _backward_jvp("lstm_backward_jvp", saved, tangents, dy, dh_n, dc_n, dgates, grad_clip)
    return LSTMGradients(*g) if len(g) == 7 else FamilyGradients(*g)


def gru_backward_jvp(
    saved: Any,
    tangents: Directions,
    dy: Array | None,
    dh_n: Array | None = None,
    dc_n: Array | None = None,
    *,
    dgates: Array | None = None,
    grad_clip: float | None = None,
) -> GRUGradients | FamilyGradients:
    """The derivative of :func:`gru_backward` along a direction; as :func:`lstm_backward_jvp`."""
    g, _ = _backward_jvp("gru_backward_jvp", saved, tangents, dy, dh_n, dc_n, dgates, grad_clip)
    return GRUGradients(*g[:6]) if len(g) == 7 else FamilyGradients(*g)


def rnn_backward_jvp(
    saved: Any,
    tangents: Directions,
    dy: Array | None,
    dh_n: Array | None = None,
    *,
    dgates: Array | None = None,
    grad_clip: float | None = None,
) -> RNNGradients | FamilyGradients:
    """The derivative of :func:`rnn_backward` along a direction; as :func:`lstm_backward_jvp`."""
    g, _ = _backward_jvp("rnn_backward_jvp", saved, tangents, dy, dh_n, None, dgates, grad_clip)
    return RNNGradients(*g[:6]) if len(g) == 7 else FamilyGradients(*g)


def lstm_double_backward(
    saved: Any,
    cotangents: Directions,
    dy: Array | None,
    dh_n: Array | None = None,
    dc_n: Array | None = None,
    *,
    dgates: Array | None = None,
) -> tuple[LSTMGradients | FamilyGradients, Any]:
    """Backward through :func:`lstm_backward`.

    ``cotangents``: by the name of a gradient (dx, dw_ih, ..) what comes to it, of its shape; one
    left out, or None, is zero. The others are the arguments of :func:`lstm_backward`; there is no
    ``grad_clip``, as clipped gradients are those of no function.
    -> the gradients of the arguments of forward, under the names that :func:`lstm_backward` gives
    them, and those of the arguments of backward: dy and (dh_n, dc_n), and of dgates after
    ``return_gates``.
    """
    g, results = _double_backward("lstm", saved, cotangents, dy, dh_n, dc_n, dgates)
    return LSTMGradients(*g) if len(g) == 7 else FamilyGradients(*g), results


def gru_double_backward(
    saved: Any,
    cotangents: Directions,
    dy: Array | None,
    dh_n: Array | None = None,
    dc_n: Array | None = None,
    *,
    dgates: Array | None = None,
) -> tuple[GRUGradients | FamilyGradients, Any]:
    """Backward through :func:`gru_backward`; as :func:`lstm_double_backward`, (dh_n, dc_n) with
    ``w_hr``, else dh_n alone.
    """
    g, results = _double_backward("gru", saved, cotangents, dy, dh_n, dc_n, dgates)
    return GRUGradients(*g[:6]) if len(g) == 7 else FamilyGradients(*g), results


def rnn_double_backward(
    saved: Any,
    cotangents: Directions,
    dy: Array | None,
    dh_n: Array | None = None,
    *,
    dgates: Array | None = None,
) -> tuple[RNNGradients | FamilyGradients, Any]:
    """Backward through :func:`rnn_backward`; as :func:`lstm_double_backward`, without c."""
    g, results = _double_backward("rnn", saved, cotangents, dy, dh_n, None, dgates)
    return RNNGradients(*g[:6]) if len(g) == 7 else FamilyGradients(*g), results


def _results(results: tuple[Any, ...]) -> tuple[Any, ...]:
    y, h_n, c_n, gates = results
    return y, h_n if c_n is None else (h_n, c_n), *(() if gates is None else (gates,))


def _is_in_chunks(saved: Any, family: str) -> bool:
    return isinstance(saved, checkpoint.Saved) and saved.call.cell in CELLS[family]


def _jvp(family: str, saved: Any, tangents: Directions) -> tuple[Any, ...]:
    function = f"{family}_jvp"
    if _is_in_chunks(saved, family):
        return checkpoint.jvp(function, saved, tangents)
    return _core.jvp(function, CELLS[family], saved, dict(tangents))


def _backward_jvp(
    function: str,
    saved: Any,
    tangents: Directions,
    dy: Array | None,
    dh_n: Array | None,
    dc_n: Array | None,
    dgates: Array | None,
    grad_clip: float | None,
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    family, clip = function.split("_")[0], checked_clip(function, grad_clip)
    if _is_in_chunks(saved, family):
        return checkpoint.backward_jvp(function, saved, tangents, dy, dh_n, dc_n, dgates, clip)
    return _core.backward_jvp(
        function, CELLS[family], saved, dict(tangents), dy, dh_n, dc_n, dgates, clip
    )


def _double_backward(
    family: str,
    saved: Any,
    cotangents: Directions,
    dy: Array | None,
    dh_n: Array | None,
    dc_n: Array | None,
    dgates: Array | None,
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    function = f"{family}_double_backward"
    u = directions_of(function, cotangents)
    g, results = _backward_jvp(function, saved, u, dy, dh_n, dc_n, dgates, None)
    return g, _results(results)
