"""The functions, with the signatures of fastrnn's own (but for `backend`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import sequence
from .cell import Array, Arrays, Cell
from .check import Check
from .gru import GRU, GRU_RESET_BEFORE
from .lstm import LSTM
from .rnn import RNN_RELU, RNN_TANH


class LSTMGradients(NamedTuple):
    """dL/dv for each argument v, of its shape; None for a bias that was not given."""

    dx: Array
    dw_ih: Array
    dw_hh: Array
    db_ih: Array | None
    db_hh: Array | None
    dh0: Array
    dc0: Array


class GRUGradients(NamedTuple):
    """dL/dv for each argument v, of its shape; None for a bias that was not given."""

    dx: Array
    dw_ih: Array
    dw_hh: Array
    db_ih: Array | None
    db_hh: Array | None
    dh0: Array


class RNNGradients(NamedTuple):
    """dL/dv for each argument v, of its shape; None for a bias that was not given."""

    dx: Array
    dw_ih: Array
    dw_hh: Array
    db_ih: Array | None
    db_hh: Array | None
    dh0: Array


# lengths, mask, reset, reverse, batch_first
Options = tuple[npt.ArrayLike | None, npt.ArrayLike | None, npt.ArrayLike | None, bool, bool]


@dataclass(frozen=True, eq=False, repr=False)
class Saved:
    """What a forward call leaves to its backward call. It may be used any number of times."""

    family: str
    problem: sequence.Problem
    steps: list[sequence.Step]
    batch_first: bool
    has_b_ih: bool
    has_b_hh: bool


def lstm_forward(
    x: npt.ArrayLike,
    w_ih: npt.ArrayLike,
    w_hh: npt.ArrayLike,
    b_ih: npt.ArrayLike | None = None,
    b_hh: npt.ArrayLike | None = None,
    *,
    h0: npt.ArrayLike | None = None,
    c0: npt.ArrayLike | None = None,
    lengths: npt.ArrayLike | None = None,
    mask: npt.ArrayLike | None = None,
    reset: npt.ArrayLike | None = None,
    reverse: bool = False,
    batch_first: bool = False,
    save: bool = True,
    return_cell_sequence: bool = False,
) -> tuple[Any, ...]:
    """One LSTM layer over a sequence (equations and papers: `reference/lstm.py`).

    x (T, B, I), w_ih (4H, I), w_hh (4H, H), b_* (4H,), gates in the order i f g o; h0, c0 (B, H),
    zero if not given -> y (T, B, H), (h_n, c_n) each (B, H), saved for `lstm_backward` (None if
    save is False), and with return_cell_sequence a fourth result c (T, B, H), the cell state at
    every step. With batch_first, x, y, c are (B, T, ...) and mask, reset (B, T).

    lengths (B,) ints: row b is valid for t < lengths[b]; beyond, x is not read, y and c are 0; h_n,
    c_n are the state after the last valid step. mask (T, B) bool: False skips the step and carries
    the state over it. reset (T, B) bool: True sets the state to zero before the step. reverse: from
    the last valid step of each row to the first.

    Any real dtype of at most 64 bits is taken and computed in float64; results are float64.
    ValueError if a shape does not fit, I or H is 0, or a length is out of range; TypeError if a
    dtype does not fit.
    """
    initial = {"h0": h0, "c0": c0}
    options = (lengths, mask, reset, reverse, batch_first)
    (y, c), final, saved = _forward("lstm", LSTM, x, w_ih, w_hh, b_ih, b_hh, initial, save, options)
    return (y, final, saved, c) if return_cell_sequence else (y, final, saved)


def gru_forward(
    x: npt.ArrayLike,
    w_ih: npt.ArrayLike,
    w_hh: npt.ArrayLike,
    b_ih: npt.ArrayLike | None = None,
    b_hh: npt.ArrayLike | None = None,
    *,
    h0: npt.ArrayLike | None = None,
    lengths: npt.ArrayLike | None = None,
    mask: npt.ArrayLike | None = None,
    reset: npt.ArrayLike | None = None,
    reverse: bool = False,
    batch_first: bool = False,
    save: bool = True,
    reset_after: bool = True,
) -> tuple[Array, Array, Saved | None]:
    """One GRU layer over a sequence (equations and papers: `reference/gru.py`).

    x (T, B, I), w_ih (3H, I), w_hh (3H, H), b_* (3H,), gates in the order r z n; h0 (B, H), zero if
    not given -> y (T, B, H), h_n (B, H), saved for `gru_backward` (None if save is False).
    reset_after=False applies the reset gate before the matrix product, as the published paper does.
    The other options and errors are `lstm_forward`'s.
    """
    cell = GRU if reset_after else GRU_RESET_BEFORE
    options = (lengths, mask, reset, reverse, batch_first)
    (y,), (h_n,), saved = _forward(
        "gru", cell, x, w_ih, w_hh, b_ih, b_hh, {"h0": h0}, save, options
    )
    return y, h_n, saved


def rnn_forward(
    x: npt.ArrayLike,
    w_ih: npt.ArrayLike,
    w_hh: npt.ArrayLike,
    b_ih: npt.ArrayLike | None = None,
    b_hh: npt.ArrayLike | None = None,
    *,
    h0: npt.ArrayLike | None = None,
    lengths: npt.ArrayLike | None = None,
    mask: npt.ArrayLike | None = None,
    reset: npt.ArrayLike | None = None,
    reverse: bool = False,
    batch_first: bool = False,
    save: bool = True,
    nonlinearity: str = "tanh",
) -> tuple[Array, Array, Saved | None]:
    """One simple recurrent layer over a sequence (equation and paper: `reference/rnn.py`).

    x (T, B, I), w_ih (H, I), w_hh (H, H), b_* (H,); h0 (B, H), zero if not given; nonlinearity
    "tanh" or "relu" -> y (T, B, H), h_n (B, H), saved for `rnn_backward` (None if save is False).
    The other options and errors are `lstm_forward`'s.
    """
    cell = _rnn("rnn_forward", nonlinearity)
    options = (lengths, mask, reset, reverse, batch_first)
    (y,), (h_n,), saved = _forward(
        "rnn", cell, x, w_ih, w_hh, b_ih, b_hh, {"h0": h0}, save, options
    )
    return y, h_n, saved


def lstm_backward(
    saved: Saved | None,
    dy: npt.ArrayLike | None,
    dh_n: npt.ArrayLike | None = None,
    dc_n: npt.ArrayLike | None = None,
) -> LSTMGradients:
    """Back-propagation through time of `lstm_forward`.

    dy = dL/dy (T, B, H), or (B, T, H) if forward was batch_first, not read beyond a row's length;
    dh_n, dc_n (B, H). Each may be None, which is zero. Returns dx, dw_ih, dw_hh, db_ih, db_hh, dh0,
    dc0, of the shapes of the arguments. ValueError if a shape does not fit; TypeError if saved is
    not what `lstm_forward` returned, or a dtype does not fit.
    """
    grads, (dh0, dc0) = _backward("lstm", saved, dy, {"dh_n": dh_n, "dc_n": dc_n})
    return LSTMGradients(*grads, dh0, dc0)


def gru_backward(
    saved: Saved | None, dy: npt.ArrayLike | None, dh_n: npt.ArrayLike | None = None
) -> GRUGradients:
    """Back-propagation through time of `gru_forward`; all as `lstm_backward`, without c."""
    grads, (dh0,) = _backward("gru", saved, dy, {"dh_n": dh_n})
    return GRUGradients(*grads, dh0)


def rnn_backward(
    saved: Saved | None, dy: npt.ArrayLike | None, dh_n: npt.ArrayLike | None = None
) -> RNNGradients:
    """Back-propagation through time of `rnn_forward`; all as `lstm_backward`, without c."""
    grads, (dh0,) = _backward("rnn", saved, dy, {"dh_n": dh_n})
    return RNNGradients(*grads, dh0)


def lstm_step(
    x: npt.ArrayLike,
    state: tuple[npt.ArrayLike, npt.ArrayLike],
    w_ih: npt.ArrayLike,
    w_hh: npt.ArrayLike,
    b_ih: npt.ArrayLike | None = None,
    b_hh: npt.ArrayLike | None = None,
) -> tuple[Array, Array]:
    """One step of `lstm_forward`: x (B, I), (h, c) each (B, H), weights as there -> (h, c)."""
    h, c = state
    h, c = _step("lstm_step", LSTM, x, w_ih, w_hh, b_ih, b_hh, {"h": h, "c": c})
    return h, c


def gru_step(
    x: npt.ArrayLike,
    h: npt.ArrayLike,
    w_ih: npt.ArrayLike,
    w_hh: npt.ArrayLike,
    b_ih: npt.ArrayLike | None = None,
    b_hh: npt.ArrayLike | None = None,
    *,
    reset_after: bool = True,
) -> Array:
    """One step of `gru_forward`: x (B, I), h (B, H), weights as there -> h."""
    cell = GRU if reset_after else GRU_RESET_BEFORE
    (h,) = _step("gru_step", cell, x, w_ih, w_hh, b_ih, b_hh, {"h": h})
    return h


def rnn_step(
    x: npt.ArrayLike,
    h: npt.ArrayLike,
    w_ih: npt.ArrayLike,
    w_hh: npt.ArrayLike,
    b_ih: npt.ArrayLike | None = None,
    b_hh: npt.ArrayLike | None = None,
    *,
    nonlinearity: str = "tanh",
) -> Array:
    """One step of `rnn_forward`: x (B, I), h (B, H), weights as there -> h."""
    cell = _rnn("rnn_step", nonlinearity)
    (h,) = _step("rnn_step", cell, x, w_ih, w_hh, b_ih, b_hh, {"h": h})
    return h


def _rnn(function: str, nonlinearity: str) -> Cell:
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"{function}: nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
    return RNN_TANH if nonlinearity == "tanh" else RNN_RELU


def _forward(
    family: str,
    cell: Cell,
    x: npt.ArrayLike,
    w_ih: npt.ArrayLike,
    w_hh: npt.ArrayLike,
    b_ih: npt.ArrayLike | None,
    b_hh: npt.ArrayLike | None,
    initial: dict[str, npt.ArrayLike | None],
    save: bool,
    options: Options,
) -> tuple[Arrays, Arrays, Saved | None]:
    check = Check(f"{family}_forward")
    p = check.problem(cell, x, w_ih, w_hh, b_ih, b_hh, initial, *options)
    batch_first = options[-1]
    steps: list[sequence.Step] = []
    states, final = sequence.forward(p, steps if save else None)
    if batch_first:
        states = tuple(s.swapaxes(0, 1) for s in states)
    saved = Saved(family, p, steps, batch_first, b_ih is not None, b_hh is not None)
    return states, final, saved if save else None


def _step(
    function: str,
    cell: Cell,
    x: npt.ArrayLike,
    w_ih: npt.ArrayLike,
    w_hh: npt.ArrayLike,
    b_ih: npt.ArrayLike | None,
    b_hh: npt.ArrayLike | None,
    state: dict[str, npt.ArrayLike | None],
) -> Arrays:
    check = Check(function)
    x = check.real("x", x, ["B", "I"])[np.newaxis]
    _, final = sequence.forward(check.problem(cell, x, w_ih, w_hh, b_ih, b_hh, state))
    return final


def _backward(
    family: str,
    saved: Saved | None,
    dy: npt.ArrayLike | None,
    dfinal: dict[str, npt.ArrayLike | None],
) -> tuple[tuple[Array, Array, Array, Array | None, Array | None], Arrays]:
    function = f"{family}_backward"
    if saved is None:
        raise TypeError(
            f"{function}: saved is None: {family}_forward keeps nothing with save=False"
        )
    if not isinstance(saved, Saved) or saved.family != family:
        came = f"that of {saved.family}_forward" if isinstance(saved, Saved) else type(saved)
        raise TypeError(f"{function}: saved must be that of {family}_forward, got {came}")
    p = saved.problem
    (T, B), H = p.valid.shape, p.hidden
    check = Check(function, {"T": T, "B": B, "H": H})
    if dy is None:
        dy = np.zeros((T, B, H))
    elif saved.batch_first:
        dy = check.real("dy", dy, ["B", "T", "H"]).swapaxes(0, 1)
    else:
        dy = check.real("dy", dy, ["T", "B", "H"])
    states = tuple(
        np.zeros((B, H)) if d is None else check.real(name, d, ["B", "H"])
        for name, d in dfinal.items()
    )
    g = sequence.backward(p, saved.steps, dy, states)
    return (
        g.x.swapaxes(0, 1) if saved.batch_first else g.x,
        g.w_ih,
        g.w_hh,
        g.b_ih if saved.has_b_ih else None,
        g.b_hh if saved.has_b_hh else None,
    ), g.initial
