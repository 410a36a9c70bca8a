"""Linear maps as one primitive of JAX: each with its transpose, and with its derivative along what
it depends on besides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

__all__ = ["Map", "apply"]


class Map(Protocol):
    """A function of ``residuals`` and ``vector``, trees of arrays, that is linear in the vector.
    Maps that are equal are the same.
    """

    def __call__(self, residuals: Any, vector: Any) -> Any: ...

    def derivative(self, residuals: Any, tangents: Any, vector: Any) -> Any:
        """Of the result, along tangents of the residuals; in the places of integers is anything."""
        ...

    @property
    def transpose(self) -> Map: ...


def apply(linear: Map, residuals: Any, vector: Any) -> Any:
    """``linear(residuals, vector)``, which can be differentiated, transposed and mapped over."""
    first, residual_tree = jax.tree.flatten(residuals)
    last, vector_tree = jax.tree.flatten(vector)
    result_tree = jax.tree.structure(jax.eval_shape(linear, residuals, vector))
    trees = residual_tree, vector_tree, result_tree
    found = _primitive.bind(*first, *last, linear=linear, trees=trees, axes=())
    return jax.tree.unflatten(result_tree, found)


# The primitive's operands are the leaves of the residuals, then those of the vector; `trees`: of
# the residuals, the vector and the result. `axes`: for every vmap, the innermost first, the axis of
# each leaf of the residuals, 0 or None. Vector and result have axis 0.

_primitive: Any = Primitive("fastrnn_linear")
_primitive.multiple_results = True
_ad: Any = ad


def _mapped(
    function: Callable[..., Any], trees: Sequence[Any], axes: Sequence[tuple[Any, ...]]
) -> Callable[..., list[Any]]:
    """A function of trees as one of their leaves, under the vmaps; the last tree is the vector."""

    def flat(*leaves: Any) -> list[Any]:
        left = iter(leaves)
        parts = [
            jax.tree.unflatten(tree, [next(left) for _ in range(tree.num_leaves)]) for tree in trees
        ]
        return jax.tree.leaves(function(*parts))

    for level in axes:
        of_residuals = level * (len(trees) - 1)
        flat = jax.vmap(flat, in_axes=(*of_residuals, *(0,) * trees[-1].num_leaves))
    return flat


def _run(*leaves: Any, linear: Map, trees: Any, axes: Any) -> list[Any]:
    return _mapped(linear, trees[:2], axes)(*leaves)


def _abstract(*leaves: Any, **parameters: Any) -> list[Any]:
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in leaves]  # type: ignore[no-untyped-call]
    results = jax.eval_shape(lambda *leaves: _run(*leaves, **parameters), *shapes)
    return [jax.core.ShapedArray(a.shape, a.dtype) for a in results]


def _differentiate(
    primals: Any, tangents: Any, *, linear: Map, trees: Any, axes: Any
) -> tuple[list[Any], list[Any]]:
    count = trees[0].num_leaves
    residuals, vector = primals[:count], primals[count:]
    parameters = {"linear": linear, "trees": trees, "axes": axes}
    value: list[Any] = _primitive.bind(*primals, **parameters)

    def moves(some: Any) -> bool:
        return any(type(tangent) is not ad.Zero for tangent in some)

    parts = []
    if moves(tangents[count:]):
        vector_along = map(_ad.instantiate_zeros, tangents[count:])
        parts.append(_primitive.bind(*residuals, *vector_along, **parameters))
    if moves(tangents[:count]):
        along = [
            _ad.instantiate_zeros(t) if jnp.issubdtype(r.dtype, jnp.floating) else r
            for r, t in zip(residuals, tangents[:count], strict=True)
        ]
        derivative = _mapped(linear.derivative, (trees[0], *trees[:2]), axes)
        parts.append(derivative(*residuals, *along, *vector))
    return value, [sum(part[1:], start=part[0]) for part in zip(*parts, strict=True)]


def _transpose(
    cotangents: Any, *leaves: Any, linear: Map, trees: Any, axes: Any
) -> list[Any | None]:
    residual_tree, vector_tree, result_tree = trees
    count = residual_tree.num_leaves
    found = _primitive.bind(
        *leaves[:count],
        *map(_ad.instantiate_zeros, cotangents),
        linear=linear.transpose,
        trees=(residual_tree, result_tree, vector_tree),
        axes=axes,
    )
    wanted = map(_ad.is_undefined_primal, leaves[count:])
    return [None] * count + [f if w else None for f, w in zip(found, wanted, strict=True)]


def _batch(leaves: Any, axes_in: Any, *, linear: Map, trees: Any, axes: Any) -> Any:
    count = trees[0].num_leaves
    size = next(a.shape[d] for a, d in zip(leaves, axes_in, strict=True) if d is not None)
    moved = [
        jnp.moveaxis(a, d, 0)
        if d is not None
        else a
        if i < count
        else jnp.broadcast_to(a, (size, *a.shape))
        for i, (a, d) in enumerate(zip(leaves, axes_in, strict=True))
    ]
    level = tuple(None if d is None else 0 for d in axes_in[:count])
    found = _primitive.bind(*moved, linear=linear, trees=trees, axes=(*axes, level))
    return found, [0] * len(found)


_primitive.def_impl(_run)
_primitive.def_abstract_eval(_abstract)
ad.primitive_jvps[_primitive] = _differentiate
ad.primitive_transposes[_primitive] = _transpose
batching.primitive_batchers[_primitive] = _batch
mlir.register_lowering(_primitive, mlir.lower_fun(_run, multiple_results=True))
