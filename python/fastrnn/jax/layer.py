"""One layer with its derivatives: the kernels for the value, for first and second derivatives, in
forward mode and backward; the formula for those beyond.

Let F be the layer, J = F'(a) and B(a, v) = J^T v its gradients: J is a linear map whose transpose
is B. What B does along a and v is linear in both, and its transpose is what reverse mode makes of
B.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from fastrnn.jax import formula, kernels, linear
from fastrnn.jax.kernels import Inputs, Marks, Options, Results, Saved

__all__ = ["layer"]


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def layer(options: Options, inputs: Inputs, marks: Marks) -> Results:
    """float32 or float64 throughout, shapes as the classes of the arguments say."""
    return kernels.forward(options, False, inputs, marks)[0]


@layer.defjvp
def _layer_jvp(options: Options, primals: Any, tangents: Any) -> tuple[Results, Results]:
    results, saved = _saving(options, *primals)
    return results, linear.apply(_Jacobian(options), (*primals, saved), tangents[0])


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _saving(options: Options, inputs: Inputs, marks: Marks) -> tuple[Results, Saved]:
    return kernels.forward(options, True, inputs, marks)


@_saving.defjvp
def _saving_jvp(options: Options, primals: Any, tangents: Any) -> Any:
    """``saved`` is a function of the inputs: what would come by way of it is in the derivatives
    along them, so that it has none itself.
    """
    results, saved = _saving(options, *primals)
    moved = linear.apply(_Jacobian(options), (*primals, saved), tangents[0])
    return (results, saved), (moved, jax.tree.map(jnp.zeros_like, saved))


@dataclass(frozen=True)
class _Jacobian:
    """J: tangents of the inputs -> those of the results."""

    options: Options

    def __call__(self, residuals: Any, vector: Inputs) -> Results:
        inputs, marks, _ = residuals
        return kernels.jvp(self.options, inputs, marks, vector)

    def derivative(self, residuals: Any, tangents: Any, vector: Inputs) -> Results:
        function = _formula(self.options, residuals[1])

        def along(inputs: Inputs) -> Results:
            moved: Results = jax.jvp(function, (inputs,), (vector,))[1]
            return moved

        found: Results = jax.jvp(along, (residuals[0],), (tangents[0],))[1]
        return found

    @property
    def transpose(self) -> _Gradients:
        return _Gradients(self.options)


@dataclass(frozen=True)
class _Gradients:
    """B: cotangents of the results -> those of the inputs."""

    options: Options

    def __call__(self, residuals: Any, vector: Results) -> Inputs:
        inputs, marks, saved = residuals
        return kernels.backward(self.options, inputs, marks, saved, vector)

    def derivative(self, residuals: Any, tangents: Any, vector: Results) -> Inputs:
        inputs, marks, _ = residuals
        zero = jax.tree.map(jnp.zeros_like, vector)
        found: Inputs = linear.apply(
            _Second(self.options), (inputs, marks, vector), (tangents[0], zero)
        )
        return found

    @property
    def transpose(self) -> _Jacobian:
        return _Jacobian(self.options)


@dataclass(frozen=True)
class _Second:
    """Tangents of the inputs and of what comes to B -> those of B."""

    options: Options

    def __call__(self, residuals: Any, vector: tuple[Inputs, Results]) -> Inputs:
        inputs, marks, cotangents = residuals
        return kernels.backward_jvp(self.options, inputs, marks, cotangents, vector)[0]

    def derivative(self, residuals: Any, tangents: Any, vector: Any) -> Any:
        def along(inputs: Inputs, cotangents: Results) -> Any:
            gradients = _gradients_by_formula(self.options, residuals[1])
            return jax.jvp(gradients, (inputs, cotangents), vector)[1]

        return _along_inputs_and_cotangents(along, residuals, tangents)

    @property
    def transpose(self) -> _BackwardOfGradients:
        return _BackwardOfGradients(self.options)


@dataclass(frozen=True)
class _BackwardOfGradients:
    """What comes to the gradients -> the same for the inputs, and for what came to B. Second
    derivatives commute: it is B's derivative along the vector, and J of it.
    """

    options: Options

    def __call__(self, residuals: Any, vector: Inputs) -> tuple[Inputs, Results]:
        inputs, marks, cotangents = residuals
        along = vector, jax.tree.map(jnp.zeros_like, cotangents)
        return kernels.backward_jvp(self.options, inputs, marks, cotangents, along)

    def derivative(self, residuals: Any, tangents: Any, vector: Any) -> Any:
        def along(inputs: Inputs, cotangents: Results) -> Any:
            gradients = _gradients_by_formula(self.options, residuals[1])
            return jax.vjp(gradients, inputs, cotangents)[1](vector)

        return _along_inputs_and_cotangents(along, residuals, tangents)

    @property
    def transpose(self) -> _Second:
        return _Second(self.options)


def _formula(options: Options, marks: Marks) -> Callable[[Inputs], Results]:
    return lambda inputs: formula.layer(options, inputs, marks)


def _gradients_by_formula(options: Options, marks: Marks) -> Callable[[Inputs, Results], Inputs]:
    def gradients(inputs: Inputs, cotangents: Results) -> Inputs:
        found: Inputs = jax.vjp(_formula(options, marks), inputs)[1](cotangents)[0]
        return found

    return gradients


def _along_inputs_and_cotangents(function: Any, residuals: Any, tangents: Any) -> Any:
    inputs, _, cotangents = residuals
    return jax.jvp(function, (inputs, cotangents), (tangents[0], tangents[2]))[1]
