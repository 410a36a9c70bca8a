"""The layer as operators of torch.library, for whatever traces: torch.compile, torch.export,
FakeTensor, make_fx.

``fastrnn::layer`` and ``fastrnn::layer_backward`` take what :mod:`fastrnn.torch.kernels` takes.
Operators return tensors, not None: what does not exist has no elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastrnn.torch import formula, kernels

__all__ = ["layer"]

_library = torch.library.Library("fastrnn", "DEF")  # type: ignore[no-untyped-call]
_INPUTS = (
    "str cell, bool batch_first, bool bidirectional, Tensor x, Tensor[] weights, Tensor? h0, "
    "Tensor? c0, Tensor? lengths, Tensor? mask, Tensor? reset"
)
_library.define(  # type: ignore[no-untyped-call]
    f"layer({_INPUTS}, bool save) -> (Tensor y, Tensor h_n, Tensor c_n, Tensor c, Tensor reserve)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(  # type: ignore[no-untyped-call]
    f"layer_backward({_INPUTS}, Tensor y, Tensor c, Tensor reserve, Tensor? dy, Tensor? dh_n, "
    "Tensor? dc_n, bool[] wanted) -> Tensor[]",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def _layer(*arguments: Any) -> tuple[Tensor, ...]:
    x, lengths, mask = arguments[3], arguments[7], arguments[8]
    results = kernels.forward(*(*arguments, lengths is not None or mask is not None))
    return tuple(x.new_empty(0) if result is None else result for result in results)


def _layer_fake(
    cell: str,
    batch_first: bool,
    bidirectional: bool,
    x: Tensor,
    weights: Sequence[Tensor],
    h0: Tensor | None,
    c0: Tensor | None,
    lengths: Tensor | None,
    mask: Tensor | None,
    reset: Tensor | None,
    save: bool,
) -> tuple[Tensor, ...]:
    D = 2 if bidirectional else 1
    H, P = weights[0].shape[0] // formula.GATES[cell], weights[1].shape[1]
    kept = (kernels.RESERVE[cell] + len(weights) // D % 2) * H  # with w_hr one more
    T, B = (x.shape[1], x.shape[0]) if batch_first else (x.shape[0], x.shape[1])
    lstm = cell == "lstm"
    return (
        x.new_empty((x.shape[0], x.shape[1], D * P)),
        x.new_empty((D, B, P)),
        x.new_empty((D, B, H) if lstm else (0,)),
        x.new_empty((D, T, B, H) if lstm and save else (0,)),
        x.new_empty((D, T, B, kept) if kernels.RESERVE[cell] and save else (0,)),
    )


def _layer_backward(*arguments: Any) -> list[Tensor]:
    *inputs, y, c, reserve, dy, dh_n, dc_n, wanted = arguments
    cell = inputs[0]
    if cell != "lstm":
        c = dc_n = None
    if not kernels.RESERVE[cell]:
        reserve = None
    gradients = kernels.backward(*(*inputs, y, c, reserve, dy, dh_n, dc_n, wanted))
    return [gradient for gradient in gradients if gradient is not None]


def _layer_backward_fake(*arguments: Any) -> list[Tensor]:
    cell, batch_first, bidirectional, x, weights = arguments[:5]
    wanted = arguments[-1]
    D = 2 if bidirectional else 1
    B = x.shape[0] if batch_first else x.shape[1]
    H, P = weights[0].shape[0] // formula.GATES[cell], weights[1].shape[1]
    shapes = [x.shape, (D, B, P), (D, B, H), *(w.shape for w in weights)]
    return [x.new_empty(shape) for shape, want in zip(shapes, wanted, strict=True) if want]


_library.impl("layer", _layer, "CPU")  # type: ignore[no-untyped-call]
_library.impl("layer_backward", _layer_backward, "CPU")  # type: ignore[no-untyped-call]
torch.library.register_fake("fastrnn::layer", _layer_fake, lib=_library)
torch.library.register_fake("fastrnn::layer_backward", _layer_backward_fake, lib=_library)

layer = torch.ops.fastrnn.layer.default
_backward = torch.ops.fastrnn.layer_backward.default


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    cell, batch_first, bidirectional, x, weights, h0, c0, lengths, mask, reset, save = inputs
    y, _, c_n, c, reserve = output
    ctx.options = cell, batch_first, bidirectional
    ctx.save = save
    ctx.save_for_backward(x, h0, c0, lengths, mask, reset, y, c, reserve, *weights)
    ctx.set_materialize_grads(False)
    unused = (c, reserve) if cell == "lstm" else (c_n, c, reserve)
    ctx.mark_non_differentiable(*unused)


def _differentiate(
    ctx: Any, dy: Any, dh_n: Any, dc_n: Any, dc: Any, dreserve: Any
) -> tuple[Any, ...]:
    x, h0, c0, lengths, mask, reset, y, c, reserve, *weights = ctx.saved_tensors
    needs = ctx.needs_input_grad
    wanted = [needs[3], needs[5], needs[6], *needs[4]]
    gradients: Sequence[Tensor | None]
    if ctx.save and not (torch.is_grad_enabled() and not torch.compiler.is_compiling()):
        found = iter(
            _backward(
                *ctx.options,
                x,
                weights,
                h0,
                c0,
                lengths,
                mask,
                reset,
                y,
                c,
                reserve,
                dy,
                dh_n,
                dc_n,
                wanted,
            )
        )
        gradients = [next(found) if want else None for want in wanted]
    else:
        gradients = recomputed_gradients(
            ctx.options, x, h0, c0, weights, (lengths, mask, reset), (dy, dh_n, dc_n), wanted
        )
    dx, dh0, dc0, *dweights = gradients
    return None, None, None, dx, dweights, dh0, dc0, None, None, None, None


def recomputed_gradients(
    options: tuple[str, bool, bool],
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    weights: Sequence[Tensor],
    marks: tuple[Tensor | None, Tensor | None, Tensor | None],
    cotangents: Sequence[Tensor | None],
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients of x, h0, c0 and the weights by way of the formula: they can be differentiated
    again.
    """
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        # Aliases: an input may have been computed from another one, and only the direct dependence
        # counts here.
        x, *weights = (i.view_as(i) for i in (x, *weights))
        h0, c0 = (None if i is None else i.view_as(i) for i in (h0, c0))
        inputs = (x, h0, c0, *weights)
        results = formula.layer(*options, x, weights, h0, c0, *marks)
        pairs = [
            (result, cotangent)
            for result, cotangent in zip(results, cotangents, strict=False)
            if cotangent is not None and result.requires_grad
        ]
        asked = [i for i, want in zip(inputs, wanted, strict=True) if want and i is not None]
        if not pairs:
            return [None] * len(inputs)
        found = iter(
            torch.autograd.grad(
                [result for result, _ in pairs],
                asked,
                [cotangent for _, cotangent in pairs],
                create_graph=differentiable,
                allow_unused=True,
            )
        )
    return [
        next(found) if want and i is not None else None
        for i, want in zip(inputs, wanted, strict=True)
    ]


torch.library.register_autograd(
    "fastrnn::layer", _differentiate, setup_context=_setup_context, lib=_library
)
