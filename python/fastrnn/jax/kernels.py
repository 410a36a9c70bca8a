"""One layer as calls of the compiled core by XLA, and what ``vmap`` makes of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_batching import custom_vmap

from fastrnn import _core

CELLS = {name: (number, reserve) for number, (name, reserve) in enumerate(_core.cells())}

for _name, _handler in _core.xla_handlers().items():
    jax.ffi.register_ffi_target(_name, _handler, platform="cpu")

# the bits of attribute "given", as csrc/bindings/xla_handlers.cpp names them
BIAS, H0, C0, LENGTHS, MASK, RESET, SAVE, BATCH_FIRST, BIDIRECTIONAL, REVERSE, TRANSPOSED = (
    1 << bit for bit in range(11)
)


def on_cpu() -> bool:
    """Whether JAX puts arrays where the kernels are."""
    return bool(jax.default_backend() == "cpu")


class Options(NamedTuple):
    """What is known before any array. ``reverse``: the one direction goes backwards.
    ``transposed``: w_ih and w_hh are the transposes of arrays, which are then read as they lie.
    """

    cell: str
    batch_first: bool = False
    bidirectional: bool = False
    reverse: bool = False
    transposed: bool = False


class Inputs(NamedTuple):
    """What has gradients: x (T, B, I), h0 and c0 (D, B, H) or None, D times the weights w_ih
    (GH, I), w_hh (GH, H) and perhaps b_ih, b_hh (GH,).
    """

    x: Array
    h0: Array | None
    c0: Array | None
    weights: tuple[tuple[Array, ...], ...]


class Marks(NamedTuple):
    """What has none: lengths (B,), mask and reset (T, B), or None."""

    lengths: Array | None
    mask: Array | None
    reset: Array | None


class Results(NamedTuple):
    """y (T, B, DH), h_n (D, B, H), c_n (D, B, H) of an LSTM."""

    y: Array
    h_n: Array
    c_n: Array | None


class Saved(NamedTuple):
    """What backward needs: y again, c (D, T, B, H) of an LSTM, reserve (D, T, B, RH)."""

    y: Array
    c: Array | None
    reserve: Array | None


def forward(options: Options, save: bool, inputs: Inputs, marks: Marks) -> tuple[Results, Saved]:
    """Without ``save`` there is y alone in Saved."""
    found: tuple[Results, Saved] = _forward(options, save)(inputs, marks)
    return found


def backward(
    options: Options, inputs: Inputs, marks: Marks, saved: Saved, cotangents: Results
) -> Inputs:
    """Gradients of all inputs."""
    x, h0, c0, weights = inputs
    results = [_like(x, (len(weights), *x.shape) if options.bidirectional else x.shape)]
    results += [_like(x, state.shape) for state in (h0, c0) if state is not None]
    results += [_like(x, w.shape) for direction in weights for w in direction]
    arrays = [*_arrays(options, inputs, marks), *saved, *cotangents]
    call = jax.ffi.ffi_call("fastrnn_backward", results, vmap_method="sequential")
    dx, *rest = call(
        *[array for array in arrays if array is not None],
        **_attributes(options, inputs, marks, save=False),
    )
    if options.bidirectional:
        dx = dx[0] + dx[1]
    left = iter(rest)
    dh0, dc0 = (None if state is None else next(left) for state in (h0, c0))
    return Inputs(dx, dh0, dc0, tuple(tuple(next(left) for _ in d) for d in weights))


def _like(x: Array, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, x.dtype)  # type: ignore[no-untyped-call]


def _arrays(options: Options, inputs: Inputs, marks: Marks) -> list[Array | None]:
    x, h0, c0, directions = inputs
    if options.transposed:  # back, so that XLA finds nothing to transpose
        directions = tuple((w_ih.T, w_hh.T, *biases) for w_ih, w_hh, *biases in directions)
    return [x, h0, c0, *marks, *(w for weights in directions for w in weights)]


def _attributes(options: Options, inputs: Inputs, marks: Marks, save: bool) -> dict[str, Any]:
    given = (
        BIAS * (len(inputs.weights[0]) == 4)
        | H0 * (inputs.h0 is not None)
        | C0 * (inputs.c0 is not None)
        | LENGTHS * (marks.lengths is not None)
        | MASK * (marks.mask is not None)
        | RESET * (marks.reset is not None)
        | SAVE * save
        | BATCH_FIRST * options.batch_first
        | BIDIRECTIONAL * options.bidirectional
        | REVERSE * options.reverse
        | TRANSPOSED * options.transposed
    )
    return {"cell": np.int32(CELLS[options.cell][0]), "given": np.int32(given)}


def _call_forward(
    options: Options, save: bool, inputs: Inputs, marks: Marks
) -> tuple[Results, Saved]:
    x, directions = inputs.x, len(inputs.weights)
    T, B = x.shape[1::-1] if options.batch_first else x.shape[:2]
    H = inputs.weights[0][1].shape[1]
    lstm, reserve = options.cell == "lstm", CELLS[options.cell][1]
    shapes = [(*x.shape[:2], directions * H)] + [(directions, B, H)] * (2 if lstm else 1)
    if save:
        shapes += [(directions, T, B, H)] * lstm
        shapes += [(directions, T, B, reserve * H)] * (reserve > 0)
    call = jax.ffi.ffi_call(
        "fastrnn_forward", [_like(x, shape) for shape in shapes], vmap_method="sequential"
    )
    found = iter(
        call(
            *[array for array in _arrays(options, inputs, marks) if array is not None],
            **_attributes(options, inputs, marks, save),
        )
    )
    y, h_n, c_n = next(found), next(found), next(found) if lstm else None
    c, r = next(found) if lstm and save else None, next(found) if reserve and save else None
    return Results(y, h_n, c_n), Saved(y, c, r)


@cache
def _forward(options: Options, save: bool) -> Callable[[Inputs, Marks], Any]:
    """The call, with a rule for vmap: rows of the batch are all alike, so that what is mapped over
    becomes rows. Only weights that are mapped over need a loop.
    """

    @custom_vmap
    def call(inputs: Inputs, marks: Marks) -> tuple[Results, Saved]:
        return _call_forward(options, save, inputs, marks)

    @call.def_vmap
    def rule(size: int, batched: Any, inputs: Inputs, marks: Marks) -> tuple[Any, Any]:
        mapped = jax.tree.map(
            lambda a, is_mapped: a if is_mapped else jnp.broadcast_to(a, (size, *a.shape)),
            (inputs._replace(weights=()), marks),
            (batched[0]._replace(weights=()), batched[1]),
        )
        if any(jax.tree.leaves(batched[0].weights)):
            each, weights = [], []
            leaves, tree = jax.tree.flatten(inputs.weights)
            for leaf, is_mapped in zip(leaves, jax.tree.leaves(batched[0].weights), strict=True):
                each.append(leaf if is_mapped else None)
                weights.append(None if is_mapped else leaf)

            def one(arguments: Any) -> tuple[Results, Saved]:
                (inputs, marks), own = arguments
                whole = [w if o is None else o for o, w in zip(own, weights, strict=True)]
                return forward(
                    options, save, inputs._replace(weights=jax.tree.unflatten(tree, whole)), marks
                )

            out: Any = jax.lax.map(one, (mapped, each))
        else:
            axis = 0 if options.batch_first else 1
            (x, h0, c0, _), (lengths, mask, reset) = mapped
            folded = Inputs(_fold(x, axis), _fold(h0, 1), _fold(c0, 1), inputs.weights)
            marked = Marks(_fold(lengths, 0), _fold(mask, axis), _fold(reset, axis))
            (y, h_n, c_n), (_, c, r) = forward(options, save, folded, marked)
            y = _unfold(y, axis, size)
            states = Results(y, _unfold(h_n, 1, size), _unfold(c_n, 1, size))
            out = states, Saved(y, _unfold(c, 2, size), _unfold(r, 2, size))
        return out, jax.tree.map(lambda _: True, out)

    return call


def _fold(array: Any, axis: int) -> Any:
    """(V, ..., B, ...) -> (..., V*B, ...), with B on that axis of the result."""
    if array is None:
        return None
    moved = jnp.moveaxis(array, 0, axis)
    shape = moved.shape
    return moved.reshape(*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])


def _unfold(array: Any, axis: int, size: int) -> Any:
    if array is None:
        return None
    shape = array.shape
    split = array.reshape(*shape[:axis], size, shape[axis] // size, *shape[axis + 1 :])
    return jnp.moveaxis(split, axis, 0)
