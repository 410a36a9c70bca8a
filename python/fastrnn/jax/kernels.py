"""One layer as calls of the compiled core by XLA, and what ``vmap`` makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_batching import custom_vmap

from fastrnn import _core

CELLS = {name: (number, reserve) for number, (name, reserve) in enumerate(_core.cells())}

for _platform, _handlers in _core.xla_handlers().items():
    for _name, _handler in _handlers.items():
        jax.ffi.register_ffi_target(_name, _handler, platform=_platform)

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
    arrays = [*_arrays(options, inputs, marks), *saved, *cotangents]
    shapes = _shapes_of_gradients(inputs)
    return _gradients(inputs, iter(_call("backward", options, inputs, marks, arrays, shapes)))


def jvp(options: Options, inputs: Inputs, marks: Marks, tangents: Inputs) -> Results:
    """The derivative of forward along the tangents of all inputs."""
    arrays = [*_arrays(options, inputs, marks), *_reals(options, tangents)]
    shapes = _shapes_of_results(options, inputs)
    return _results(options, iter(_call("jvp", options, inputs, marks, arrays, shapes)))


def backward_jvp(
    options: Options,
    inputs: Inputs,
    marks: Marks,
    cotangents: Results,
    tangents: tuple[Inputs, Results],
) -> tuple[Inputs, Results]:
    """The derivative of :func:`backward` along the tangents of inputs and cotangents, and
    :func:`jvp`.
    """
    arrays = [*_arrays(options, inputs, marks), *cotangents]
    arrays += [*_reals(options, tangents[0]), *tangents[1]]
    shapes = _shapes_of_gradients(inputs) + _shapes_of_results(options, inputs)
    found = iter(_call("backward_jvp", options, inputs, marks, arrays, shapes))
    return _gradients(inputs, found), _results(options, found)


def _call(
    name: str,
    options: Options,
    inputs: Inputs,
    marks: Marks,
    arrays: list[Array | None],
    shapes: list[tuple[int, ...]],
    save: bool = False,
) -> Sequence[Array]:
    like = [jax.ShapeDtypeStruct(shape, inputs.x.dtype) for shape in shapes]  # type: ignore[no-untyped-call]
    call = jax.ffi.ffi_call(f"fastrnn_{name}", like, vmap_method="sequential")
    found: Sequence[Array] = call(
        *[array for array in arrays if array is not None],
        **_attributes(options, inputs, marks, save),
    )
    return found


def _shapes_of_results(options: Options, inputs: Inputs) -> list[tuple[int, ...]]:
    B = inputs.x.shape[0 if options.batch_first else 1]
    D, H = len(inputs.weights), inputs.weights[0][1].shape[1]
    states = 2 if options.cell == "lstm" else 1
    return [(*inputs.x.shape[:2], D * H)] + [(D, B, H)] * states


def _results(options: Options, found: Iterator[Array]) -> Results:
    return Results(next(found), next(found), next(found) if options.cell == "lstm" else None)


def _shapes_of_gradients(inputs: Inputs) -> list[tuple[int, ...]]:
    x, h0, c0, weights = inputs
    of_x = x.shape if len(weights) == 1 else (len(weights), *x.shape)
    return [of_x, *(a.shape for a in jax.tree.leaves((h0, c0, weights)))]


def _gradients(inputs: Inputs, found: Iterator[Array]) -> Inputs:
    _, h0, c0, weights = inputs
    dx = next(found)
    if len(weights) == 2:
        dx = dx[0] + dx[1]
    dh0, dc0 = (None if state is None else next(found) for state in (h0, c0))
    return Inputs(dx, dh0, dc0, tuple(tuple(next(found) for _ in d) for d in weights))


def _arrays(options: Options, inputs: Inputs, marks: Marks) -> list[Array | None]:
    x, h0, c0, *weights = _reals(options, inputs)
    return [x, h0, c0, _words(marks.lengths), marks.mask, marks.reset, *weights]


def _reals(options: Options, inputs: Inputs) -> list[Array | None]:
    x, h0, c0, directions = inputs
    if options.transposed:  # back, so that XLA finds nothing to transpose
        directions = tuple((w_ih.T, w_hh.T, *biases) for w_ih, w_hh, *biases in directions)
    return [x, h0, c0, *(w for weights in directions for w in weights)]


def _words(lengths: Array | None) -> Array | None:
    """64-bit integers, which JAX seldom has, as pairs (B, 2) of 32-bit ones, the lower first."""
    if lengths is None:
        return None
    if lengths.dtype == jnp.int64:
        return jax.lax.bitcast_convert_type(lengths, jnp.int32)
    low = lengths.astype(jnp.int32)
    return jnp.stack([low, low >> 31], axis=-1)


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
    T, B = inputs.x.shape[1::-1] if options.batch_first else inputs.x.shape[:2]
    D, H = len(inputs.weights), inputs.weights[0][1].shape[1]
    lstm, reserve = options.cell == "lstm", CELLS[options.cell][1]
    shapes = _shapes_of_results(options, inputs)
    if save:
        shapes += [(D, T, B, H)] * lstm
        shapes += [(D, T, B, reserve * H)] * (reserve > 0)
    arrays = _arrays(options, inputs, marks)
    found = iter(_call("forward", options, inputs, marks, arrays, shapes, save))
    results = _results(options, found)
    c, r = next(found) if lstm and save else None, next(found) if reserve and save else None
    return results, Saved(results.y, c, r)


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
