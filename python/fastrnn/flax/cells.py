"""The cells of flax.nnx as the kernels know them: which one, and its parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import dtypes
from jax import Array

Cell = nnx.LSTMCell | nnx.OptimizedLSTMCell | nnx.GRUCell | nnx.SimpleCell
Weights = tuple[Array, Array, Array, Array]

_SIGMOID = (jax.nn.sigmoid, jax.lax.logistic)
_TANH = (jnp.tanh, jax.lax.tanh)
_RELU = (jax.nn.relu,)
# by class: how the core calls it, the names of its input and its recurrent Linear
_CELLS: dict[type[Any], tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    nnx.LSTMCell: ("lstm", ("ii", "if_", "ig", "io"), ("hi", "hf", "hg", "ho")),
    nnx.OptimizedLSTMCell: ("lstm", ("dense_i",), ("dense_h",)),
    nnx.GRUCell: ("gru", ("dense_i",), ("dense_h",)),
    nnx.SimpleCell: ("rnn", ("dense_i",), ("dense_h",)),
}


def kind(cell: Any) -> str:
    """The cell's name in the core. Raises TypeError or ValueError where that has no such cell."""
    if type(cell) not in _CELLS:
        raise TypeError(
            "RNN: argument 'cell' must be an LSTMCell, OptimizedLSTMCell, GRUCell or SimpleCell of "
            f"flax.nnx, got {type(cell).__module__}.{type(cell).__qualname__}; flax.nnx.RNN takes "
            "any cell"
        )
    name, *linears = _CELLS[type(cell)]
    for layer in (*linears[0], *linears[1]):
        if type(getattr(cell, layer)) is not nnx.Linear:
            raise TypeError(
                f"RNN: {layer} of the cell must be a flax.nnx.Linear, "
                f"got {type(getattr(cell, layer)).__qualname__}"
            )
    if cell.promote_dtype is not dtypes.promote_dtype:
        raise ValueError("RNN: promote_dtype of the cell must be flax's own")
    if name != "rnn":
        _expect(cell, "gate_fn", sigmoid=_SIGMOID)
        _expect(cell, "activation_fn", tanh=_TANH)
        return name
    return f"rnn_{_expect(cell, 'activation_fn', tanh=_TANH, relu=_RELU)}"


def _expect(cell: Any, attribute: str, **allowed: tuple[Callable[..., Any], ...]) -> str:
    value = getattr(cell, attribute)
    for name, functions in allowed.items():
        if value in functions:
            return name
    raise ValueError(
        f"RNN: {attribute} of the {type(cell).__name__} must be {' or '.join(allowed)}, "
        f"got {getattr(value, '__qualname__', value)}; flax.nnx.RNN takes any function"
    )


def parameters(cell: Cell) -> dict[str, Any]:
    """The cell's kernels and biases as arrays, by the names of its Linears."""
    _, inputs, recurrent = _CELLS[type(cell)]
    found = {}
    for name in (*inputs, *recurrent):
        linear = getattr(cell, name)
        bias = None if linear.bias is None else linear.bias[...]
        found[name] = (linear.kernel[...], bias)
    return found


def weights(cls: type[Cell], found: dict[str, Any], residual: bool) -> Weights:
    """w_ih (GH, I), w_hh (GH, H), b_ih, b_hh (GH,) of :func:`parameters`. A ``residual`` SimpleCell
    adds h to what its activation takes, which is the unit matrix in w_hh.
    """
    _, *names = _CELLS[cls]
    arrays = []
    for side in names:
        kernel = jnp.concatenate([found[name][0] for name in side], axis=1)
        biases = [found[name][1] for name in side]
        bias = None if biases[0] is None else jnp.concatenate(biases)
        arrays.append((kernel, bias))
    (kernel, b_ih), (recurrent, b_hh) = arrays
    if residual:
        recurrent = recurrent + jnp.eye(len(recurrent), dtype=recurrent.dtype)
    zeros = jnp.zeros(kernel.shape[1], kernel.dtype)
    b_ih, b_hh = (zeros if b is None else b for b in (b_ih, b_hh))
    return kernel.T, recurrent.T, b_ih, b_hh
