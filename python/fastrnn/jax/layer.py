"""One layer with its derivatives: the kernels for the value and the gradients, the formula for the
gradients of gradients.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax

from fastrnn.jax import formula, kernels
from fastrnn.jax.kernels import Inputs, Marks, Options, Results, Saved

__all__ = ["layer"]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def layer(options: Options, inputs: Inputs, marks: Marks) -> Results:
    """float32 or float64 throughout, shapes as the classes of the arguments say."""
    return kernels.forward(options, False, inputs, marks)[0]


def _layer_forward(options: Options, inputs: Inputs, marks: Marks) -> tuple[Results, Any]:
    results, saved = _saving(options, inputs, marks)
    return results, (inputs, marks, saved)


def _layer_backward(options: Options, kept: Any, cotangents: Results) -> tuple[Inputs, None]:
    return _gradients(options, *kept, cotangents), None


# The rules below call their own functions again: they are differentiated in their turn where
# gradients of gradients are wanted.


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _saving(options: Options, inputs: Inputs, marks: Marks) -> tuple[Results, Saved]:
    return kernels.forward(options, True, inputs, marks)


def _saving_forward(
    options: Options, inputs: Inputs, marks: Marks
) -> tuple[tuple[Results, Saved], Any]:
    results, saved = _saving(options, inputs, marks)
    return (results, saved), (inputs, marks, saved)


def _saving_backward(options: Options, kept: Any, cotangents: Any) -> tuple[Inputs, None]:
    return _gradients(options, *kept, cotangents[0]), None  # see _gradients_backward


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gradients(
    options: Options, inputs: Inputs, marks: Marks, saved: Saved, cotangents: Results
) -> Inputs:
    return kernels.backward(options, inputs, marks, saved, cotangents)


def _gradients_forward(
    options: Options, inputs: Inputs, marks: Marks, saved: Saved, cotangents: Results
) -> tuple[Inputs, Any]:
    gradients = _gradients(options, inputs, marks, saved, cotangents)
    return gradients, (inputs, marks, cotangents)


def _gradients_backward(
    options: Options, kept: Any, second: Inputs
) -> tuple[Inputs, None, None, Results]:
    """``saved`` is a function of the inputs: what would go through it is in ``d_inputs``, so that
    it gets nothing here and passes nothing on.
    """
    inputs, marks, cotangents = kept

    def gradients(inputs: Inputs, cotangents: Results) -> Any:
        return jax.vjp(lambda given: formula.layer(options, given, marks), inputs)[1](cotangents)[0]

    d_inputs, d_cotangents = jax.vjp(gradients, inputs, cotangents)[1](second)
    return d_inputs, None, None, d_cotangents


_saving.defvjp(_saving_forward, _saving_backward)
layer.defvjp(_layer_forward, _layer_backward)
_gradients.defvjp(_gradients_forward, _gradients_backward)
