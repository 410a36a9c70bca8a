"""lstm, gru and rnn: arguments checked when a call is traced, then layer after layer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from fastrnn.jax import formula, parameters
from fastrnn.jax.kernels import Inputs, Marks, Options
from fastrnn.jax.layer import layer
from fastrnn.jax.parameters import init

__all__ = ["gru", "init", "lstm", "rnn"]

Params = Mapping[str, Any]
Backend = Literal["scan"] | None

_SHARED = """
    params: :func:`init`'s, or a state_dict of torch's layout as arrays; its names tell the layers
    and directions. x (T, B, I), or (B, T, I) with ``batch_first``, or (T, I) for one sequence
    without an axis B anywhere. ``lengths`` (B,) ints, ``mask`` and ``reset`` (T, B) bool as in
    :mod:`fastrnn.functional`.

    The result has the dtype to which JAX promotes x, state and parameters; float16 and bfloat16 are
    computed in float32. ``backend="scan"`` computes by ``jax.lax.scan`` instead of the kernels: for
    platforms that have none. Raises ``ValueError`` or
    ``TypeError`` while tracing; a length out of range raises when the call runs.
    """


def _documented(function: Any) -> Any:
    function.__doc__ += _SHARED
    return function


@_documented
def lstm(
    params: Params,
    x: Array,
    state: tuple[Array, Array] | None = None,
    *,
    lengths: Array | None = None,
    mask: Array | None = None,
    reset: Array | None = None,
    batch_first: bool = False,
    backend: Backend = None,
) -> tuple[Array, tuple[Array, Array]]:
    """A stack of LSTM layers: x (T, B, I), state (h0, c0), both (L*D, B, H) or None for zeros
    -> y (T, B, D*H), (h_n, c_n), both (L*D, B, H).
    """
    marks = Marks(lengths, mask, reset)
    y, h_n, c_n = _run("lstm", "lstm", params, x, state, marks, batch_first, backend)
    return y, (h_n, c_n)


@_documented
def gru(
    params: Params,
    x: Array,
    h0: Array | None = None,
    *,
    lengths: Array | None = None,
    mask: Array | None = None,
    reset: Array | None = None,
    batch_first: bool = False,
    reset_after: bool = True,
    backend: Backend = None,
) -> tuple[Array, Array]:
    """A stack of GRU layers: x (T, B, I), h0 (L*D, B, H) or None for zeros -> y (T, B, D*H), h_n
    (L*D, B, H). ``reset_after`` as in :func:`fastrnn.gru_forward`.
    """
    cell = "gru" if reset_after else "gru_reset_before"
    marks = Marks(lengths, mask, reset)
    y, h_n, _ = _run("gru", cell, params, x, h0, marks, batch_first, backend)
    return y, h_n


@_documented
def rnn(
    params: Params,
    x: Array,
    h0: Array | None = None,
    *,
    lengths: Array | None = None,
    mask: Array | None = None,
    reset: Array | None = None,
    batch_first: bool = False,
    nonlinearity: Literal["tanh", "relu"] = "tanh",
    backend: Backend = None,
) -> tuple[Array, Array]:
    """A stack of plain RNN layers: x (T, B, I), h0 (L*D, B, H) or None for zeros -> y (T, B, D*H),
    h_n (L*D, B, H).
    """
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(
            f"rnn: argument 'nonlinearity' must be 'tanh' or 'relu', got {nonlinearity!r}"
        )
    marks = Marks(lengths, mask, reset)
    cell = f"rnn_{nonlinearity}"
    y, h_n, _ = _run("rnn", cell, params, x, h0, marks, batch_first, backend)
    return y, h_n


@partial(jax.jit, static_argnums=(0, 1, 6, 7))
def _run(
    function: str,
    cell: str,
    params: Params,
    x: Any,
    state: Any,
    marks: Marks,
    batch_first: bool,
    backend: Backend,
) -> tuple[Any, Any, Any]:
    if backend not in (None, "scan"):
        raise ValueError(f"{function}: argument 'backend' must be None or 'scan', got {backend!r}")
    x = jnp.asarray(x)
    unbatched = x.ndim == 2
    batch = 0 if batch_first and not unbatched else 1
    if unbatched:
        x = x[:, None]
        state = jax.tree.map(lambda s: jnp.asarray(s)[:, None], state)
        lengths, *flags = (None if m is None else jnp.asarray(m) for m in marks)
        lengths = None if lengths is None else lengths[None]
        marks = Marks(lengths, *(None if m is None else m[:, None] for m in flags))
    if x.ndim != 3 or x.shape[2] == 0:
        raise ValueError(
            f"{function}: argument 'x' must have shape (T, B, I), (B, T, I) with batch_first, or "
            f"(T, I), I > 0; got {x.shape}"
        )
    B = x.shape[batch]
    layers = parameters.read(function, params, parameters.GATES[function], x.shape[2])
    h0, c0 = _states(function, state, layers, B)
    marks = _check_marks(function, marks, x.shape[:2], B)
    dtype = jnp.result_type(x, *jax.tree.leaves((h0, c0, layers)))
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{function}: arrays must be of a real float dtype, got {dtype}")
    compute = jnp.promote_types(dtype, jnp.float32)
    x, h0, c0, layers = jax.tree.map(lambda a: a.astype(compute), (x, h0, c0, layers))
    directions = len(layers[0])
    options = Options(cell, batch == 0, directions == 2)
    run = formula.layer if backend == "scan" else layer
    h_n, c_n = [], []
    for k, weights in enumerate(layers):
        here = slice(k * directions, (k + 1) * directions)
        h, c = (None if s is None else s[here] for s in (h0, c0))
        x, h, c = run(options, Inputs(x, h, c, weights), marks)
        h_n.append(h)
        if c is not None:
            c_n.append(c)
    y, h, c = jax.tree.map(
        lambda a: a.astype(dtype),
        (x, jnp.concatenate(h_n), jnp.concatenate(c_n) if c_n else None),
    )
    return jax.tree.map(lambda a: a[:, 0], (y, h, c)) if unbatched else (y, h, c)


def _states(
    function: str, state: Any, layers: list[parameters.Weights], B: int
) -> tuple[Array | None, Array | None]:
    if state is None:
        return None, None
    if function == "lstm":
        if not isinstance(state, tuple | list) or len(state) != 2:
            raise TypeError("lstm: argument 'state' must be (h0, c0)")
        named = (("h0", state[0]), ("c0", state[1]))
    else:
        named = (("h0", state), ("c0", None))
    rows = len(layers) * len(layers[0])
    sizes = {weights[0][1].shape[1] for weights in layers}
    if len(sizes) != 1:
        raise ValueError(f"{function}: an initial state needs layers of one hidden size")
    wanted = (rows, B, sizes.pop())
    arrays = [None if value is None else jnp.asarray(value) for _, value in named]
    for (name, _), array in zip(named, arrays, strict=True):
        if array is not None and array.shape != wanted:
            raise ValueError(
                f"{function}: argument {name!r} must have shape (L*D, B, H) = {wanted}, "
                f"got {array.shape}"
            )
    return arrays[0], arrays[1]


def _check_marks(function: str, marks: Marks, steps: tuple[int, ...], B: int) -> Marks:
    lengths, mask, reset = (None if m is None else jnp.asarray(m) for m in marks)
    if lengths is not None:
        if not jnp.issubdtype(lengths.dtype, jnp.integer):
            raise TypeError(
                f"{function}: argument 'lengths' must be of an integer dtype, got {lengths.dtype}"
            )
        if lengths.shape != (B,):
            raise ValueError(
                f"{function}: argument 'lengths' must have shape (B,) = ({B},), got {lengths.shape}"
            )
        if lengths.dtype not in (jnp.int32, jnp.int64):
            lengths = lengths.astype(jnp.int32)
    for name, flags in (("mask", mask), ("reset", reset)):
        if flags is None:
            continue
        if flags.dtype != jnp.bool_:
            raise TypeError(
                f"{function}: argument {name!r} must be of dtype bool, got {flags.dtype}"
            )
        if flags.shape != steps:
            raise ValueError(
                f"{function}: argument {name!r} must have the first two axes of x, {steps}, "
                f"got {flags.shape}"
            )
    return Marks(lengths, mask, reset)
