"""The functions, with the signatures of fastrnn's own (but for `backend`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import sequence
from .activations import Activation
from .cell import Array, Arrays, Cell
from .check import Check, nonlinearity_of
from .features import Features, Settings, settings
from .gru import GRU, GRU_RESET_BEFORE
from .lstm import LSTM, LSTM_COUPLED
from .rnn import RNN

if TYPE_CHECKING:
    from typing import Unpack


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


class FamilyGradients(NamedTuple):
    """dL/dv for each argument v, of its shape, of a call with any of `Features`; None for what was
    not given. step_norms (T, B): the norm of dL/dh at every step, if asked for.
    """

    dx: Array
    dw_ih: Array
    dw_hh: Array
    db_ih: Array | None
    db_hh: Array | None
    dh0: Array
    dc0: Array | None
    dw_hr: Array | None = None
    dpeephole: Array | None = None
    dgain_ih: Array | None = None
    dgain_hh: Array | None = None
    dgain_c: Array | None = None
    dbias_c: Array | None = None
    step_norms: Array | None = None


# lengths, mask, reset, reverse, batch_first
Options = tuple[npt.ArrayLike | None, npt.ArrayLike | None, npt.ArrayLike | None, bool, bool]
Given = tuple[Array, Arrays, Array | None, float]  # dy, dfinal, dgates, clip: of sequence.backward


@dataclass(frozen=True, eq=False, repr=False)
class Saved:
    """What a forward call leaves to its backward call. It may be used any number of times."""

    family: str
    problem: sequence.Problem
    steps: list[sequence.Step]
    features: Settings
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
    save: bool | str = True,
    return_cell_sequence: bool = False,
    **features: Unpack[Features],
) -> tuple[Any, ...]:
    """One LSTM layer over a sequence (equations and papers: `reference/lstm.py`).

    x (T, B, I), w_ih (4H, I), w_hh (4H, H), b_* (4H,), gates in the order i f g o; h0, c0 (B, H),
    zero if not given -> y (T, B, H), (h_n, c_n) each (B, H), saved for `lstm_backward` (None if
    save is False), and with return_cell_sequence a fourth result c (T, B, H), the cell state at
    every step. With batch_first, x, y, c are (B, T, ...) and mask, reset (B, T).

    lengths (B,) ints: row b is valid for t < lengths[b]; beyond, x is not read, y and c are 0; h_n,
    c_n are the state after the last valid step. mask (T, B) bool: False skips the step and carries
    the state over it. reset (T, B) bool: True sets the state to zero before the step. reverse: from
    the last valid step of each row to the first. features: see `Features`.

    Any real dtype of at most 64 bits is taken and computed in float64; results are float64.
    ValueError if a shape does not fit, I or H is 0, or a length is out of range; TypeError if a
    dtype does not fit.
    """
    on = settings("lstm_forward", "lstm", features)
    initial = {"h0": h0, "c0": c0}
    options = (lengths, mask, reset, reverse, batch_first)
    cell = LSTM_COUPLED if on.coupled else LSTM
    (y, c), final, saved, gates = _forward(
        "lstm", cell, None, x, w_ih, w_hh, b_ih, b_hh, initial, save, on, options
    )
    more = (*((c,) if return_cell_sequence else ()), *((gates,) if on.return_gates else ()))
    return y, final, saved, *more


def gru_forward(
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
    save: bool | str = True,
    reset_after: bool = True,
    **features: Unpack[Features],
) -> tuple[Any, ...]:
    """One GRU layer over a sequence (equations and papers: `reference/gru.py`).

    x (T, B, I), w_ih (3H, I), w_hh (3H, H), b_* (3H,), gates in the order r z n; h0 (B, H), zero if
    not given -> y (T, B, H), h_n (B, H), saved for `gru_backward` (None if save is False).
    reset_after=False applies the reset gate before the matrix product, as the published paper does.
    With w_hr there is a second state: c0 (B, H), and (h_n, c_n) for h_n. The other options and
    errors are `lstm_forward`'s.
    """
    cell = GRU if reset_after else GRU_RESET_BEFORE
    on = settings("gru_forward", cell.name, features)
    options = (lengths, mask, reset, reverse, batch_first)
    initial = _gru_states("gru_forward", on, "h0", h0, "c0", c0)
    (y, *_), final, saved, gates = _forward(
        "gru", cell, None, x, w_ih, w_hh, b_ih, b_hh, initial, save, on, options
    )
    state = final[0] if on.w_hr is None else final
    return y, state, saved, *((gates,) if on.return_gates else ())


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
    save: bool | str = True,
    nonlinearity: str = "tanh",
    **features: Unpack[Features],
) -> tuple[Any, ...]:
    """One simple recurrent layer over a sequence (equation and paper: `reference/rnn.py`).

    x (T, B, I), w_ih (H, I), w_hh (H, H), b_* (H,); h0 (B, H), zero if not given; nonlinearity
    "tanh" or "relu" -> y (T, B, H), h_n (B, H), saved for `rnn_backward` (None if save is False).
    The other options and errors are `lstm_forward`'s.
    """
    chosen = nonlinearity_of("rnn_forward", nonlinearity)
    on = settings("rnn_forward", "rnn", features)
    options = (lengths, mask, reset, reverse, batch_first)
    (y,), (h_n,), saved, gates = _forward(
        "rnn", RNN, chosen, x, w_ih, w_hh, b_ih, b_hh, {"h0": h0}, save, on, options
    )
    return y, h_n, saved, *((gates,) if on.return_gates else ())


def lstm_backward(
    saved: Saved | None,
    dy: npt.ArrayLike | None,
    dh_n: npt.ArrayLike | None = None,
    dc_n: npt.ArrayLike | None = None,
    *,
    dc: npt.ArrayLike | None = None,
    dgates: npt.ArrayLike | None = None,
    grad_clip: float | None = None,
    return_step_norms: bool = False,
) -> LSTMGradients | FamilyGradients:
    """Back-propagation through time of `lstm_forward`.

    dy = dL/dy (T, B, H), or (B, T, H) if forward was batch_first, not read beyond a row's length;
    dh_n, dc_n (B, H). Each may be None, which is zero. Returns dx, dw_ih, dw_hh, db_ih, db_hh, dh0,
    dc0, of the shapes of the arguments, and FamilyGradients if there were any of `Features` or any
    option here:

    dc                  dL/d(c at every step) (T, B, H), which return_cell_sequence returned
    dgates              dL/d(values of the gates), of the shape of what return_gates returned
    grad_clip           bound of the gradients of the gates before their activation, at every step
                        (Graves, arXiv:1308.0850, section 2.1)
    return_step_norms   step_norms (T, B): the norm of dL/dh at every step

    ValueError if a shape does not fit; TypeError if saved is not what `lstm_forward` returned, or a
    dtype does not fit.
    """
    final = {"dh_n": dh_n, "dc_n": dc_n}
    g = _backward("lstm", saved, dy, final, dgates, grad_clip, return_step_norms, dc)
    more = dc is not None or extended(saved, dgates, grad_clip, return_step_norms)
    return g if more else LSTMGradients(*g[:7])  # type: ignore[arg-type]


def gru_backward(
    saved: Saved | None,
    dy: npt.ArrayLike | None,
    dh_n: npt.ArrayLike | None = None,
    dc_n: npt.ArrayLike | None = None,
    *,
    dgates: npt.ArrayLike | None = None,
    grad_clip: float | None = None,
    return_step_norms: bool = False,
) -> GRUGradients | FamilyGradients:
    """Back-propagation through time of `gru_forward`; as `lstm_backward`, dc_n with w_hr alone."""
    final = {"dh_n": dh_n, "dc_n": dc_n}
    g = _backward("gru", saved, dy, final, dgates, grad_clip, return_step_norms)
    return g if extended(saved, dgates, grad_clip, return_step_norms) else GRUGradients(*g[:6])


def rnn_backward(
    saved: Saved | None,
    dy: npt.ArrayLike | None,
    dh_n: npt.ArrayLike | None = None,
    *,
    dgates: npt.ArrayLike | None = None,
    grad_clip: float | None = None,
    return_step_norms: bool = False,
) -> RNNGradients | FamilyGradients:
    """Back-propagation through time of `rnn_forward`; as `lstm_backward`, without c."""
    g = _backward("rnn", saved, dy, {"dh_n": dh_n}, dgates, grad_clip, return_step_norms)
    return g if extended(saved, dgates, grad_clip, return_step_norms) else RNNGradients(*g[:6])


def lstm_step(
    x: npt.ArrayLike,
    state: tuple[npt.ArrayLike, npt.ArrayLike],
    w_ih: npt.ArrayLike,
    w_hh: npt.ArrayLike,
    b_ih: npt.ArrayLike | None = None,
    b_hh: npt.ArrayLike | None = None,
    **features: Unpack[Features],
) -> tuple[Array, Array]:
    """One step of `lstm_forward`: x (B, I), (h, c) each (B, H), weights as there -> (h, c)."""
    on = settings("lstm_step", "lstm", features)
    cell = LSTM_COUPLED if on.coupled else LSTM
    initial: dict[str, npt.ArrayLike | None] = {"h": state[0], "c": state[1]}
    h, c = _step("lstm_step", cell, None, x, w_ih, w_hh, b_ih, b_hh, initial, on)
    return h, c


def gru_step(
    x: npt.ArrayLike,
    h: Any,
    w_ih: npt.ArrayLike,
    w_hh: npt.ArrayLike,
    b_ih: npt.ArrayLike | None = None,
    b_hh: npt.ArrayLike | None = None,
    *,
    reset_after: bool = True,
    **features: Unpack[Features],
) -> Any:
    """One step of `gru_forward`: x (B, I), h (B, H), or the pair (h, c) with w_hr, weights as there
    -> h, or (h, c).
    """
    cell = GRU if reset_after else GRU_RESET_BEFORE
    on = settings("gru_step", cell.name, features)
    h, c = (h, None) if on.w_hr is None else h
    initial = _gru_states("gru_step", on, "h", h, "c", c)
    final = _step("gru_step", cell, None, x, w_ih, w_hh, b_ih, b_hh, initial, on)
    return final[0] if on.w_hr is None else tuple(final)


def rnn_step(
    x: npt.ArrayLike,
    h: npt.ArrayLike,
    w_ih: npt.ArrayLike,
    w_hh: npt.ArrayLike,
    b_ih: npt.ArrayLike | None = None,
    b_hh: npt.ArrayLike | None = None,
    *,
    nonlinearity: str = "tanh",
    **features: Unpack[Features],
) -> Array:
    """One step of `rnn_forward`: x (B, I), h (B, H), weights as there -> h."""
    chosen = nonlinearity_of("rnn_step", nonlinearity)
    on = settings("rnn_step", "rnn", features)
    (h,) = _step("rnn_step", RNN, chosen, x, w_ih, w_hh, b_ih, b_hh, {"h": h}, on)
    return h


def _gru_states(
    function: str, on: Settings, h_name: str, h: Any, c_name: str, c: Any
) -> dict[str, Any]:
    if on.w_hr is not None:
        return {h_name: h, c_name: c}
    if c is not None:
        raise ValueError(f"{function}: {c_name} is a GRU's state with w_hr alone")
    return {h_name: h}


def _forward(
    family: str,
    cell: Cell,
    activation: Activation | None,
    x: npt.ArrayLike,
    w_ih: npt.ArrayLike,
    w_hh: npt.ArrayLike,
    b_ih: npt.ArrayLike | None,
    b_hh: npt.ArrayLike | None,
    initial: dict[str, npt.ArrayLike | None],
    save: bool | str,
    features: Settings,
    options: Options,
) -> tuple[Arrays, Arrays, Saved | None, Array]:
    check = Check(f"{family}_forward")
    usual = cell.activations if activation is None else (activation,)
    p = check.problem(cell, usual, x, w_ih, w_hh, b_ih, b_hh, initial, features, *options)
    batch_first = options[-1]
    steps: list[sequence.Step] = []
    states, final, gates = sequence.forward(p, steps if save else None)
    if batch_first:
        states = tuple(s.swapaxes(0, 1) for s in states)
        gates = gates.swapaxes(0, 1)
    saved = Saved(family, p, steps, features, batch_first, b_ih is not None, b_hh is not None)
    return states, final, saved if save else None, gates


def _step(
    function: str,
    cell: Cell,
    activation: Activation | None,
    x: npt.ArrayLike,
    w_ih: npt.ArrayLike,
    w_hh: npt.ArrayLike,
    b_ih: npt.ArrayLike | None,
    b_hh: npt.ArrayLike | None,
    state: dict[str, npt.ArrayLike | None],
    features: Settings,
) -> Arrays:
    check = Check(function)
    usual = cell.activations if activation is None else (activation,)
    x = check.real("x", x, ["B", "I"])[np.newaxis]
    p = check.problem(cell, usual, x, w_ih, w_hh, b_ih, b_hh, state, features)
    return sequence.forward(p)[1]


def extended(saved: Any, dgates: Any, grad_clip: float | None, return_step_norms: bool) -> bool:
    more = dgates is not None or grad_clip is not None or return_step_norms
    return more or not saved.features.plain


def _backward(
    family: str,
    saved: Saved | None,
    dy: npt.ArrayLike | None,
    dfinal: dict[str, npt.ArrayLike | None],
    dgates: npt.ArrayLike | None,
    grad_clip: float | None,
    return_step_norms: bool,
    dc: npt.ArrayLike | None = None,
) -> FamilyGradients:
    function = f"{family}_backward"
    saved = checked_saved(function, family, saved)
    given = checked_cotangents(function, saved, dy, dfinal, dgates, grad_clip)
    if dc is not None:
        T, B = saved.problem.valid.shape
        check = Check(function, {"T": T, "B": B, "H": saved.problem.hidden})
        dc = check.real("dc", dc, ["B", "T", "H"] if saved.batch_first else ["T", "B", "H"])
        dc = dc.swapaxes(0, 1) if saved.batch_first else dc
    g = sequence.backward(saved.problem, saved.steps, *given, dc)
    return as_results(saved, g, return_step_norms)


def checked_saved(function: str, family: str, saved: Saved | None) -> Saved:
    if saved is None:
        raise TypeError(
            f"{function}: saved is None: {family}_forward keeps nothing with save=False"
        )
    if not isinstance(saved, Saved) or saved.family != family:
        came = f"that of {saved.family}_forward" if isinstance(saved, Saved) else type(saved)
        raise TypeError(f"{function}: saved must be that of {family}_forward, got {came}")
    return saved


def checked_cotangents(
    function: str,
    saved: Saved,
    dy: npt.ArrayLike | None,
    dfinal: dict[str, npt.ArrayLike | None],
    dgates: npt.ArrayLike | None,
    grad_clip: float | None,
) -> Given:
    p = saved.problem
    if len(p.initial) < len(dfinal) and dfinal.pop("dc_n") is not None:
        raise ValueError(f"{function}: dc_n is for a GRU with w_hr alone")
    if grad_clip is not None and not grad_clip > 0.0:
        raise ValueError(f"{function}: grad_clip must be above 0, got {grad_clip}")
    (T, B), H, G = p.valid.shape, p.hidden, p.cell.gates
    P = "H" if p.w_hr is None else "P"
    check = Check(function, {"T": T, "B": B, "H": H, P: p.w_hh.shape[1], "G": G})
    time_batch = ["B", "T"] if saved.batch_first else ["T", "B"]
    if dy is None:
        dy = np.zeros((T, B, check.sizes[P]))
    else:
        dy = check.real("dy", dy, [*time_batch, P])
        dy = dy.swapaxes(0, 1) if saved.batch_first else dy
    if dgates is not None:
        dgates = check.real("dgates", dgates, [*time_batch, "G", "H"])
        dgates = dgates.swapaxes(0, 1) if saved.batch_first else dgates
    states = tuple(
        np.zeros((B, check.sizes[units])) if d is None else check.real(name, d, ["B", units])
        for (name, d), units in zip(dfinal.items(), (P, "H"), strict=False)
    )
    return dy, states, dgates, np.inf if grad_clip is None else float(grad_clip)


def as_results(saved: Saved, g: sequence.Gradients, return_step_norms: bool) -> FamilyGradients:
    dh0, *others = g.initial
    of_gates = g.parameters
    norms = g.step_norms.T if saved.batch_first else g.step_norms
    return FamilyGradients(
        g.x.swapaxes(0, 1) if saved.batch_first else g.x,
        g.w_ih,
        g.w_hh,
        g.b_ih if saved.has_b_ih else None,
        g.b_hh if saved.has_b_hh else None,
        dh0,
        others[0] if others else None,
        g.w_hr,
        of_gates.get("peephole"),
        g.gain_ih,
        g.gain_hh,
        of_gates.get("gain_c"),
        of_gates.get("bias_c"),
        norms if return_step_norms else None,
    )
