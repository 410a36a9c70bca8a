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
from fastrnn.torch.precision import is_half
from fastrnn.torch.spec import Inputs, Spec

__all__ = ["layer"]

_library = torch.library.Library("fastrnn", "DEF")  # type: ignore[no-untyped-call]
_ARGUMENTS = (
    "str cell, bool batch_first, bool bidirectional, str options, int level, bool recompute, "
    "Tensor x, Tensor[] weights, Tensor? h0, Tensor? c0, Tensor? lengths, Tensor? mask, "
    "Tensor? reset, Tensor? seed"
)  # a Spec, and Inputs
_library.define(  # type: ignore[no-untyped-call]
    f"layer({_ARGUMENTS}, bool save) -> "
    "(Tensor y, Tensor h_n, Tensor c_n, Tensor c, Tensor reserve)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(  # type: ignore[no-untyped-call]
    f"layer_backward({_ARGUMENTS}, Tensor y, Tensor c, Tensor reserve, Tensor? dy, Tensor? dh_n, "
    "Tensor? dc_n, bool[] wanted) -> Tensor[]",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def _parts(arguments: Sequence[Any]) -> tuple[Spec, Inputs, Sequence[Any]]:
    middle = len(Spec._fields)
    end = middle + len(Inputs._fields)
    return Spec(*arguments[:middle]), Inputs(*arguments[middle:end]), arguments[end:]


def _layer(*arguments: Any) -> tuple[Tensor, ...]:
    spec, inputs, (save,) = _parts(arguments)
    filled = inputs.lengths is not None or inputs.mask is not None
    results = kernels.forward(spec, inputs, save, filled)
    return tuple(inputs.x.new_empty(0) if result is None else result for result in results)


class _Sizes:
    """Of a layer, symbolic where a compiler has them so."""

    def __init__(self, spec: Spec, inputs: Inputs) -> None:
        x, weights = inputs.x, inputs.weights
        self.D = spec.directions
        self.T, self.B = (x.shape[1], x.shape[0]) if spec.batch_first else x.shape[:2]
        self.H, self.P = weights[0].shape[0] // spec.gates, weights[1].shape[1]


def _layer_fake(*arguments: Any) -> tuple[Tensor, ...]:
    spec, inputs, (save,) = _parts(arguments)
    x, n = inputs.x, _Sizes(spec, inputs)
    lstm = spec.cell.startswith("lstm")
    T, kept = kernels.kept(spec, inputs, n.T, n.B, n.H, n.P)
    return (
        x.new_empty((x.shape[0], x.shape[1], n.D * n.P)),
        x.new_empty((n.D, n.B, n.P)),
        x.new_empty((n.D, n.B, n.H) if lstm else (0,)),
        x.new_empty(
            (n.D, T, n.B, n.H) if lstm and save else (0,),
            dtype=torch.float32 if is_half(x) and lstm and save else x.dtype,
        ),
        x.new_empty((n.D, T, n.B, kept) if kept and save else (0,)),
    )


def _layer_backward(*arguments: Any) -> list[Tensor]:
    spec, inputs, (y, c, reserve, *cotangents, wanted) = _parts(arguments)
    if not spec.cell.startswith("lstm"):
        c = cotangents[2] = None
    saved = y, c, reserve if reserve.dim() == 4 else None
    gradients = kernels.backward(spec, inputs, saved, cotangents, wanted)
    return [gradient for gradient in gradients if gradient is not None]


def _layer_backward_fake(*arguments: Any) -> list[Tensor]:
    spec, inputs, (*_, wanted) = _parts(arguments)
    n = _Sizes(spec, inputs)
    states = (n.D, n.B, n.P), (n.D, n.B, n.H)
    shapes = [inputs.x.shape, *states, *(w.shape for w in inputs.weights)]
    return [inputs.x.new_empty(shape) for shape, want in zip(shapes, wanted, strict=True) if want]


for _place in ("CPU", "CUDA"):
    _library.impl("layer", _layer, _place)  # type: ignore[no-untyped-call]
    _library.impl("layer_backward", _layer_backward, _place)  # type: ignore[no-untyped-call]
torch.library.register_fake("fastrnn::layer", _layer_fake, lib=_library)
torch.library.register_fake("fastrnn::layer_backward", _layer_backward_fake, lib=_library)

layer = torch.ops.fastrnn.layer.default
_backward = torch.ops.fastrnn.layer_backward.default


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.spec, (x, weights, *rest), (ctx.save,) = _parts(inputs)
    y, _, c_n, c, reserve = output
    ctx.save_for_backward(x, *rest, y, c, reserve, *weights)
    ctx.set_materialize_grads(False)
    unused = (c, reserve) if ctx.spec.cell.startswith("lstm") else (c_n, c, reserve)
    ctx.mark_non_differentiable(*unused)


def _differentiate(
    ctx: Any, dy: Any, dh_n: Any, dc_n: Any, dc: Any, dreserve: Any
) -> tuple[Any, ...]:
    x, h0, c0, lengths, mask, reset, seed, y, c, reserve, *weights = ctx.saved_tensors
    inputs = Inputs(x, weights, h0, c0, lengths, mask, reset, seed)
    needs, first = ctx.needs_input_grad, len(Spec._fields)  # of x, weights, h0, c0, ...
    wanted = [needs[first], needs[first + 2], needs[first + 3], *needs[first + 1]]
    gradients: Sequence[Tensor | None]
    if ctx.save and not (torch.is_grad_enabled() and not torch.compiler.is_compiling()):
        found = iter(_backward(*ctx.spec, *inputs, y, c, reserve, dy, dh_n, dc_n, wanted))
        gradients = [next(found) if want else None for want in wanted]
    else:
        gradients = recomputed_gradients(ctx.spec, inputs, (dy, dh_n, dc_n), wanted)
    dx, dh0, dc0, *dweights = gradients
    return (*(None,) * first, dx, dweights, dh0, dc0, None, None, None, None, None)


def recomputed_gradients(
    spec: Spec,
    inputs: Inputs,
    cotangents: Sequence[Tensor | None],
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients of x, h0, c0 and the weights by way of the formula: they can be differentiated
    again.
    """
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad(), torch.autocast(inputs.x.device.type, enabled=False):
        # Aliases: an input may have been computed from another one, and only the direct dependence
        # counts here.
        x, *weights = (i.view_as(i) for i in (inputs.x, *inputs.weights))
        h0, c0 = (None if i is None else i.view_as(i) for i in (inputs.h0, inputs.c0))
        sources = (x, h0, c0, *weights)
        results = formula.layer(spec, inputs._replace(x=x, weights=weights, h0=h0, c0=c0))
        asked = [i if want else None for i, want in zip(sources, wanted, strict=True)]
        return gradients_of(results, cotangents, asked, differentiable)


def gradients_of(
    results: Sequence[Tensor | None],
    cotangents: Sequence[Tensor | None],
    sources: Sequence[Tensor | None],
    differentiable: bool,
) -> list[Tensor | None]:
    """Gradients of the sources, as torch.autograd.grad has them; None for a source that is None,
    and where nothing comes from the results.
    """
    pairs = [
        (result, cotangent)
        for result, cotangent in zip(results, cotangents, strict=False)
        if result is not None and cotangent is not None and result.requires_grad
    ]
    if not pairs:
        return [None] * len(sources)
    found = iter(
        torch.autograd.grad(
            [result for result, _ in pairs],
            [source for source in sources if source is not None],
            [cotangent for _, cotangent in pairs],
            create_graph=differentiable,
            allow_unused=True,
        )
    )
    return [None if source is None else next(found) for source in sources]


torch.library.register_autograd(
    "fastrnn::layer", _differentiate, setup_context=_setup_context, lib=_library
)
