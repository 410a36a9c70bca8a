"""One layer on tensors, by the cheapest way that is right in the place where it is called.

==================================  =============================================
where                               how
==================================  =============================================
no gradient wanted                  the core, nothing saved
a gradient wanted                   the core in a ``torch.autograd.Function``
torch.compile, export, FakeTensor,
meta, make_fx, torch.jit.trace      the operator ``fastrnn::layer``
forward-mode AD, no gradient        the core's jvp
torch.func, and both modes of AD    the formula in torch operations
==================================  =============================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastrnn.torch import derivatives, formula, kernels, ops
from fastrnn.torch.cache import WeightCache
from fastrnn.torch.derivatives import as_sequence, sequence
from fastrnn.torch.eager import PLAIN, dispatch_modes, eager, tracing, transforms_active
from fastrnn.torch.rows import Rows
from fastrnn.torch.spec import Inputs, Spec

__all__ = ["eager_layer", "layer", "step"]


class _Layer(torch.autograd.Function):
    # forward takes ctx: with setup_context a call costs three times as much

    @staticmethod
    def forward(
        ctx: Any,
        spec: Spec,
        cache: WeightCache | None,
        batch_sizes: Tensor | None,
        x: Tensor,
        h0: Tensor | None,
        c0: Tensor | None,
        lengths: Tensor | None,
        mask: Tensor | None,
        reset: Tensor | None,
        seed: Tensor | None,
        *weights: Tensor,
    ) -> tuple[Tensor, ...]:
        inputs = Inputs(x, weights, h0, c0, lengths, mask, reset, seed)
        y, h_n, c_n, c, reserve = kernels.forward(
            spec, inputs, True, cache=cache, batch_sizes=batch_sizes
        )
        ctx.spec, ctx.batch_sizes = spec, batch_sizes
        saved = (h_n, c_n, reserve) if y is None else (y, c, reserve)
        ctx.save_for_backward(x, h0, c0, lengths, mask, reset, seed, *saved, *weights)
        ctx.set_materialize_grads(False)
        return tuple(t for t in (y, h_n, c_n) if t is not None)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        x, h0, c0, lengths, mask, reset, seed, y, c, reserve, *weights = ctx.saved_tensors
        inputs = Inputs(x, weights, h0, c0, lengths, mask, reset, seed)
        needs = ctx.needs_input_grad
        wanted = (*needs[3:6], *needs[10:])
        is_step = x.dim() == 2 and ctx.batch_sizes is None
        given = ((None,) if is_step else ()) + cotangents + (None,)
        dy, dh_n, dc_n = given[:3]
        gradients: Sequence[Tensor | None]
        if torch.is_grad_enabled():  # create_graph=True
            rows = None
            if ctx.batch_sizes is not None:
                rows = Rows(ctx.batch_sizes, x.size(0))
                inputs = inputs._replace(x=rows.pad(x), lengths=rows.lengths)
                dy = None if dy is None else rows.pad(dy)
                given = dy, dh_n, dc_n
                with torch.no_grad():
                    y, _, _, c, reserve = kernels.forward(ctx.spec, inputs, True)
            if eager(x) and all(t is None or type(t) is Tensor for t in given):
                saved = y, c, reserve
                gradients = derivatives.backward(ctx.spec, inputs, saved, given[:3], wanted)
            elif is_step:
                gradients = _recomputed_step(ctx.spec, inputs, dh_n, dc_n, wanted)
            else:
                gradients = ops.recomputed_gradients(ctx.spec, inputs, (dy, dh_n, dc_n), wanted)
            if rows is not None and gradients[0] is not None:
                gradients = rows.pack(gradients[0]), *gradients[1:]
        else:
            gradients = kernels.backward(
                ctx.spec, inputs, (y, c, reserve), (dy, dh_n, dc_n), wanted, ctx.batch_sizes
            )
        return (None, None, None, *gradients[:3], None, None, None, None, *gradients[3:])


# what Function.apply does beyond it is for setup_context and for torch.func, which is not active
_apply: Any = super(torch.autograd.Function, _Layer).apply


def _recomputed_step(
    spec: Spec, inputs: Inputs, dh: Tensor | None, dc: Tensor | None, wanted: Sequence[bool]
) -> list[Tensor | None]:
    cotangents = None, sequence(dh), sequence(dc)
    found = ops.recomputed_gradients(spec, as_sequence(inputs), cotangents, wanted)
    states = (None if g is None else g.squeeze(0) for g in found[:3])
    return [*states, *found[3:]]


def layer(
    spec: Spec,
    inputs: Inputs,
    cache: WeightCache | None = None,
    batch_sizes: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """-> y (T, B, D*P), h_n (D, B, P) and for the LSTM c_n (D, B, H).

    float32 or float64 throughout. ``cache``: where packed weights are kept for the next call.
    ``batch_sizes``: as of :func:`kernels.forward`, where :func:`eager` holds.
    """
    if eager(inputs.x):
        return eager_layer(spec, inputs, cache, batch_sizes)
    if not torch.compiler.is_compiling() and (
        transforms_active() or forward_ad._current_level >= 0
    ):
        if _in_forward_mode_alone(inputs):
            return derivatives.forward_mode(spec, inputs)
        return formula.layer(spec, inputs)
    # torch.jit.trace checks its graph without gradients, and wants the same one
    traced = not torch.compiler.is_compiling() and tracing()
    save = (torch.is_grad_enabled() or traced) and _needs_gradient(inputs)
    y, h_n, c_n, _, _ = ops.layer(*spec, *inputs, save)
    return (y, h_n, c_n) if spec.cell.startswith("lstm") else (y, h_n)


def _in_forward_mode_alone(inputs: Inputs) -> bool:
    """No transform, and no gradient of what is computed."""
    return (
        type(inputs.x) in PLAIN
        and inputs.x.is_cpu
        and not transforms_active()
        and not dispatch_modes()
        and not (torch.is_grad_enabled() and _needs_gradient(inputs))
    )


def eager_layer(
    spec: Spec,
    inputs: Inputs,
    cache: WeightCache | None = None,
    batch_sizes: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """:func:`layer`, or one step, where :func:`eager` holds."""
    if torch.is_grad_enabled() and _needs_gradient(inputs):
        x, weights, *rest = inputs
        results: tuple[Tensor, ...] = _apply(spec, cache, batch_sizes, x, *rest, *weights)
        return results
    y, h_n, c_n, _, _ = kernels.forward(spec, inputs, False, cache=cache, batch_sizes=batch_sizes)
    return tuple(t for t in (y, h_n, c_n) if t is not None)


def step(spec: Spec, inputs: Inputs, cache: WeightCache | None = None) -> tuple[Tensor, ...]:
    """One step: x (B, I), h and c (B, H) -> h and for the LSTM c, (B, H)."""
    if eager(inputs.x):
        return eager_layer(spec, inputs, cache)
    _, *finals = layer(spec, as_sequence(inputs))
    return tuple(final.squeeze(0) for final in finals)


def _needs_gradient(inputs: Inputs) -> bool:
    x, weights, h0, c0 = inputs[:4]
    if x.requires_grad or (h0 is not None and h0.requires_grad):
        return True
    for w in weights:
        if w.requires_grad:
            return True
    return c0 is not None and c0.requires_grad
