"""One layer over a sequence, as functions: forward, backward and one step of RNN, LSTM and GRU.

Shapes: T steps, B batch rows, I input, H hidden units, G gates. Arrays are NumPy's, or any that
speak DLPack (torch, JAX, CuPy), all on the CPU or all on one CUDA device; results are of the kind
of ``x`` and lie where it does. All are float32, or all float64, and are computed in that precision;
on a CUDA device also float16 or bfloat16, computed in float32 with c, c0 and their gradients in it.

Semantics that all share:

* ``lengths`` (B,) ints, any order, 0 allowed: row b is valid for t < lengths[b]. ``y`` beyond is
  exactly 0 and gets no gradient, ``x`` there is never read; ``h_n`` is the state after the last
  valid step (``h0`` for length 0).
* ``mask`` (T, B) bool: False skips the step, the state is carried over and ``y`` repeats it.
* ``reset`` (T, B) bool: True sets the state to zero before the step, and no gradient crosses.
* ``reverse=True`` goes from the last step (with lengths: each row's own last valid step) to the
  first; ``y`` stays at its natural time index and ``h_n`` is the state after time 0.
* ``batch_first=True``: x, y, mask, reset, dy and dx are (B, T, ...).
* ``save="recompute"`` and ``save="chunks"`` keep the state at some steps alone, and backward runs
  forward again chunk by chunk: of 2048 steps times rows, or of sqrt(T) steps.
* ``save=True`` keeps what backward needs: x, the weights and y are referred to, not copied, so do
  not change them in place before backward. ``save=False`` is inference: memory does not grow with T
  beyond ``y``.
* Any strides are taken as they are on the T and B axes of x and dy and on all axes of the weights;
  x, dy and states whose last axis is not contiguous are copied once.
* ``backend`` forces one of :func:`backends`; without it FASTRNN_BACKEND does, or the best one is
  chosen.
* For one backend the bits do not depend on the number of threads, on how the batch is split, or on
  whether the sequence came whole or step by step.

Raises ``TypeError`` for a wrong dtype or kind of object and ``ValueError`` for a wrong shape or
value; the message names the function, the argument, the wanted shape and what came.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from fastrnn import _core, checkpoint
from fastrnn.reference.features import Features, LayerNorm, Settings, settings

if TYPE_CHECKING:
    from typing import Unpack

Precision = Literal["strict", "tf32"]
Array = Any  # NumPy's, or one that speaks DLPack
CELLS = {  # the core's, of each family
    "lstm": ["lstm", "lstm_coupled"],
    "gru": ["gru", "gru_reset_before"],
    "rnn": ["rnn_tanh", "rnn_relu"],
}

__all__ = [
    "FamilyGradients",
    "Features",
    "GRUGradients",
    "LSTMGradients",
    "LayerNorm",
    "RNNGradients",
    "backends",
    "get_float32_precision",
    "get_num_threads",
    "gru_backward",
    "gru_forward",
    "gru_step",
    "lstm_backward",
    "lstm_forward",
    "lstm_step",
    "rnn_backward",
    "rnn_forward",
    "rnn_step",
    "set_float32_precision",
    "set_num_threads",
]


class LSTMGradients(NamedTuple):
    """Gradients of :func:`lstm_forward`, each of the shape of its argument; a bias that was None
    has None.
    """

    dx: Array
    dw_ih: Array
    dw_hh: Array
    db_ih: Array | None
    db_hh: Array | None
    dh0: Array
    dc0: Array


class GRUGradients(NamedTuple):
    """Gradients of :func:`gru_forward`, each of the shape of its argument; a bias that was None has
    None.
    """

    dx: Array
    dw_ih: Array
    dw_hh: Array
    db_ih: Array | None
    db_hh: Array | None
    dh0: Array


class RNNGradients(NamedTuple):
    """Gradients of :func:`rnn_forward`, each of the shape of its argument; a bias that was None has
    None.
    """

    dx: Array
    dw_ih: Array
    dw_hh: Array
    db_ih: Array | None
    db_hh: Array | None
    dh0: Array


class FamilyGradients(NamedTuple):
    """Gradients of a forward call with any of :class:`Features`, each of the shape of its argument;
    None for what was not given.

    ``step_norms`` (T, B): the norm of dL/dh at every step, if asked for.
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


def lstm_forward(
    x: Array,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
    *,
    h0: Array | None = None,
    c0: Array | None = None,
    lengths: Array | None = None,
    mask: Array | None = None,
    reset: Array | None = None,
    reverse: bool = False,
    batch_first: bool = False,
    save: bool | Literal["recompute", "chunks"] = True,
    return_cell_sequence: bool = False,
    backend: str | None = None,
    **features: Unpack[Features],
) -> Any:
    """One LSTM layer over a sequence (Hochreiter & Schmidhuber 1997; forget gate: Gers et al.
    2000).

    x (T, B, I), w_ih (4H, I), w_hh (4H, H), b_ih and b_hh (4H,), h0 and c0 (B, H), gates in the
    order i f g o
    -> y (T, B, H), (h_n (B, H), c_n (B, H)), saved; with ``return_cell_sequence=True`` also c (T,
    B, H). ``saved`` is for :func:`lstm_backward`, None with ``save=False``. What else a layer may
    have: :class:`Features`.
    """
    on = settings("lstm_forward", "lstm", features)
    y, h_n, c_n, saved, c, gates = run_forward(
        "lstm_forward",
        _lstm(on),
        x,
        w_ih,
        w_hh,
        b_ih,
        b_hh,
        h0,
        c0,
        lengths,
        mask,
        reset,
        reverse,
        batch_first,
        save,
        return_cell_sequence,
        backend,
        _given(on),
    )
    more = (*((c,) if return_cell_sequence else ()), *_gates(gates, y, 3 if on.coupled else 4))
    return y, (h_n, c_n), saved, *more


def lstm_backward(
    saved: Any,
    dy: Array | None,
    dh_n: Array | None = None,
    dc_n: Array | None = None,
    *,
    dc: Array | None = None,
    dgates: Array | None = None,
    grad_clip: float | None = None,
    return_step_norms: bool = False,
) -> LSTMGradients | FamilyGradients:
    """Back-propagation through time (Werbos 1990) of one :func:`lstm_forward`.

    dy (T, B, H), dh_n and dc_n (B, H): gradients of the loss; None is zero. The result is a
    FamilyGradients if there were any of :class:`Features`, or any of these options:

    * ``dc`` (T, B, H): gradients of c at every step, which ``return_cell_sequence`` returned
    * ``dgates``: gradients of the gates' values, of the shape of what ``return_gates`` returned
    * ``grad_clip``: bound of the gates' gradients before their activation, at every step (Graves,
      arXiv:1308.0850, section 2.1)
    * ``return_step_norms``: ``step_norms`` (T, B), the norm of dL/dh at every step
    """
    more = _options("lstm_backward", dgates, grad_clip, return_step_norms)
    g = run_backward("lstm_backward", CELLS["lstm"], saved, dy, dh_n, dc_n, *more, dc)
    return LSTMGradients(*g) if len(g) == 7 else FamilyGradients(*g)


def lstm_step(
    x: Array,
    state: tuple[Array, Array] | None,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
    *,
    backend: str | None = None,
    **features: Unpack[Features],
) -> tuple[Array, Array]:
    """One LSTM step. x (B, I), state (h (B, H), c (B, H)) or None for zeros -> h, c. Same bits as
    the whole sequence.
    """
    on = settings("lstm_step", "lstm", features)
    h, c = (None, None) if state is None else state
    h_n, c_n = _core.step(
        "lstm_step", _lstm(on), x, h, c, w_ih, w_hh, b_ih, b_hh, backend, _given(on)
    )
    return h_n, c_n


def gru_forward(
    x: Array,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
    *,
    h0: Array | None = None,
    c0: Array | None = None,
    lengths: Array | None = None,
    mask: Array | None = None,
    reset: Array | None = None,
    reverse: bool = False,
    batch_first: bool = False,
    save: bool | Literal["recompute", "chunks"] = True,
    reset_after: bool = True,
    backend: str | None = None,
    **features: Unpack[Features],
) -> Any:
    """One GRU layer over a sequence (Cho et al. 2014).

    x (T, B, I), w_ih (3H, I), w_hh (3H, H), b_ih and b_hh (3H,), h0 (B, H), gates in the order r z
    n
    -> y (T, B, H), h_n (B, H), saved. ``reset_after=True`` applies the reset gate after the
    recurrent product (version 1 of the paper; torch, cuDNN), ``False`` before it (version 3; the
    lecture, ONNX's default). With ``w_hr`` there is a second state: c0 (B, H), and (h_n, c_n) in
    the place of h_n. What else a layer may have: :class:`Features`.
    """
    on = settings("gru_forward", _gru(reset_after), features)
    y, h_n, c_n, saved, _, gates = run_forward(
        "gru_forward",
        _gru(reset_after),
        x,
        w_ih,
        w_hh,
        b_ih,
        b_hh,
        h0,
        _second_state("gru_forward", on, c0),
        lengths,
        mask,
        reset,
        reverse,
        batch_first,
        save,
        False,
        backend,
        _given(on),
    )
    return y, h_n if on.w_hr is None else (h_n, c_n), saved, *_gates(gates, y, 3)


def gru_backward(
    saved: Any,
    dy: Array | None,
    dh_n: Array | None = None,
    dc_n: Array | None = None,
    *,
    dgates: Array | None = None,
    grad_clip: float | None = None,
    return_step_norms: bool = False,
) -> GRUGradients | FamilyGradients:
    """Back-propagation through time (Werbos 1990) of one :func:`gru_forward`. dy (T, B, H), dh_n
    (B, H), dc_n with ``w_hr`` alone; None is zero. The options are those of :func:`lstm_backward`.
    """
    more = _options("gru_backward", dgates, grad_clip, return_step_norms)
    g = run_backward("gru_backward", CELLS["gru"], saved, dy, dh_n, dc_n, *more)
    return GRUGradients(*g[:6]) if len(g) == 7 else FamilyGradients(*g)


def gru_step(
    x: Array,
    h: Any,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
    *,
    reset_after: bool = True,
    backend: str | None = None,
    **features: Unpack[Features],
) -> Any:
    """One GRU step. x (B, I), h (B, H) or None for zeros -> h; with ``w_hr`` the pair (h, c) -> (h,
    c). Same bits as the whole sequence.
    """
    on = settings("gru_step", _gru(reset_after), features)
    h, c = (h, None) if on.w_hr is None or h is None else h
    cell = _gru(reset_after)
    state = _core.step("gru_step", cell, x, h, c, w_ih, w_hh, b_ih, b_hh, backend, _given(on))
    return state[0] if on.w_hr is None else state


def rnn_forward(
    x: Array,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
    *,
    h0: Array | None = None,
    lengths: Array | None = None,
    mask: Array | None = None,
    reset: Array | None = None,
    reverse: bool = False,
    batch_first: bool = False,
    save: bool | Literal["recompute", "chunks"] = True,
    nonlinearity: Literal["tanh", "relu"] = "tanh",
    backend: str | None = None,
    **features: Unpack[Features],
) -> Any:
    """One vanilla RNN layer over a sequence (Elman 1990): h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1}
    + b_hh).

    x (T, B, I), w_ih (H, I), w_hh (H, H), b_ih and b_hh (H,), h0 (B, H) -> y (T, B, H), h_n (B, H),
    saved. What else a layer may have: :class:`Features`.
    """
    cell = _rnn("rnn_forward", nonlinearity)
    on = settings("rnn_forward", "rnn", features)
    y, h_n, _, saved, _, gates = run_forward(
        "rnn_forward",
        cell,
        x,
        w_ih,
        w_hh,
        b_ih,
        b_hh,
        h0,
        None,
        lengths,
        mask,
        reset,
        reverse,
        batch_first,
        save,
        False,
        backend,
        _given(on),
    )
    return y, h_n, saved, *_gates(gates, y, 1)


def rnn_backward(
    saved: Any,
    dy: Array | None,
    dh_n: Array | None = None,
    *,
    dgates: Array | None = None,
    grad_clip: float | None = None,
    return_step_norms: bool = False,
) -> RNNGradients | FamilyGradients:
    """Back-propagation through time (Werbos 1990) of one :func:`rnn_forward`. dy (T, B, H), dh_n
    (B, H); None is zero. The options are those of :func:`lstm_backward`.
    """
    more = _options("rnn_backward", dgates, grad_clip, return_step_norms)
    g = run_backward("rnn_backward", CELLS["rnn"], saved, dy, dh_n, None, *more)
    return RNNGradients(*g[:6]) if len(g) == 7 else FamilyGradients(*g)


def rnn_step(
    x: Array,
    h: Array | None,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
    *,
    nonlinearity: Literal["tanh", "relu"] = "tanh",
    backend: str | None = None,
    **features: Unpack[Features],
) -> Array:
    """One step of a vanilla RNN. x (B, I), h (B, H) or None for zeros -> h. Same bits as the whole
    sequence.
    """
    cell = _rnn("rnn_step", nonlinearity)
    on = settings("rnn_step", "rnn", features)
    return _core.step("rnn_step", cell, x, h, None, w_ih, w_hh, b_ih, b_hh, backend, _given(on))[0]


def backends() -> list[str]:
    """The backends that run on this machine, best first; the first one is used unless another is
    forced.
    """
    return _core.backends(compiled=False)


def set_num_threads(n: int) -> None:
    """Use at most ``n`` >= 1 threads. Before, it is FASTRNN_NUM_THREADS, OMP_NUM_THREADS or the
    CPUs at hand.
    """
    _core.set_num_threads(n)


def get_num_threads() -> int:
    """The number of threads that a call may use."""
    return _core.num_threads()


def set_float32_precision(precision: Precision) -> None:
    """How float32 arrays are multiplied on a GPU from now on, in this process.

    ``"strict"``: to float32's own accuracy, within 4e-6 of float64's results and 2e-5 of its
    gradients, of the largest entry. ``"tf32"``: large products may round their factors to 10 bits
    of mantissa, as NVIDIA's TF32 does (1e-3). Before, it is FASTRNN_FLOAT32_PRECISION, or strict.
    CPUs, and other dtypes, always compute in their own precision. Raises ``ValueError`` for another
    name.
    """
    _core.set_float32_precision(precision)


def get_float32_precision() -> Precision:
    """How float32 arrays are multiplied on a GPU: ``"strict"`` or ``"tf32"``. Raises ``ValueError``
    where FASTRNN_FLOAT32_PRECISION says something else.
    """
    return _core.float32_precision()


def run_forward(function: str, cell: str, *arguments: Any) -> tuple[Any, ...]:
    """_core.forward, or the same chunk by chunk."""
    x, *weights, h0, c0, lengths, mask, reset = arguments[:10]
    reverse, batch_first, save, return_cell_sequence, backend, on = arguments[10:]
    if not isinstance(save, str):
        return _core.forward(function, cell, *arguments)
    if save not in checkpoint.MODES:
        message = f"must be True, False, 'recompute' or 'chunks', got {save!r}"
        raise ValueError(f"{function}: argument 'save' {message}")
    if getattr(x, "ndim", None) != 3:  # the core says what is wrong with it
        plain = (*arguments[:12], False, *arguments[13:])
        return _core.forward(function, cell, *plain)
    numpy = checkpoint.to_numpy
    call = checkpoint.Call(
        function,
        cell,
        numpy(x),
        (numpy(weights[0]), numpy(weights[1]), numpy(weights[2]), numpy(weights[3])),
        checkpoint.checked_lengths(function, lengths, x.shape[1 if batch_first else 0]),
        numpy(mask),
        numpy(reset),
        reverse,
        batch_first,
        backend,
        on,
        x,
    )
    return checkpoint.forward(call, numpy(h0), numpy(c0), save, return_cell_sequence)


def run_backward(function: str, cells: list[str], saved: Any, *arguments: Any) -> tuple[Any, ...]:
    if isinstance(saved, checkpoint.Saved) and saved.call.cell in cells:
        return checkpoint.backward(function, saved, *arguments)
    return _core.backward(function, cells, saved, *arguments)


def _given(on: Settings) -> Settings | None:
    return None if on.plain else on


def _lstm(on: Settings) -> str:
    return "lstm_coupled" if on.coupled else "lstm"


def _gates(gates: Array | None, y: Array, count: int) -> tuple[Array, ...]:
    """(T, B, G*H) as (T, B, G, H)."""
    return () if gates is None else (gates.reshape(*y.shape[:2], count, -1),)


def _second_state(function: str, on: Settings, c0: Array | None) -> Array | None:
    if c0 is not None and on.w_hr is None:
        raise ValueError(f"{function}: argument 'c0' is a GRU's state with w_hr alone")
    return c0


def _options(
    function: str, dgates: Array | None, grad_clip: float | None, return_step_norms: bool
) -> tuple[Array | None, float, bool]:
    return dgates, checked_clip(function, grad_clip), bool(return_step_norms)


def checked_clip(function: str, grad_clip: float | None) -> float:
    """The core's: 0 for none."""
    if grad_clip is not None and not hasattr(grad_clip, "__float__"):
        raise TypeError(f"{function}: argument 'grad_clip' must be a number, got {grad_clip!r}")
    if grad_clip is not None and not grad_clip > 0.0:
        raise ValueError(f"{function}: argument 'grad_clip' must be above 0, got {grad_clip}")
    return 0.0 if grad_clip is None else float(grad_clip)


def _gru(reset_after: bool) -> str:
    return "gru" if reset_after else "gru_reset_before"


def _rnn(function: str, nonlinearity: str) -> str:
    if nonlinearity not in ("tanh", "relu"):
        message = (
            f"{function}: argument 'nonlinearity' must be 'tanh' or 'relu', got {nonlinearity!r}"
        )
        raise ValueError(message)
    return f"rnn_{nonlinearity}"
