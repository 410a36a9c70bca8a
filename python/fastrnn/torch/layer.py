"""One layer on tensors, by the cheapest way that is right in the place where it is called.

==================================  =============================================
where                               how
==================================  =============================================
CPU tensors, no gradient wanted     the core, nothing saved
CPU tensors, a gradient wanted      the core in a ``torch.autograd.Function``
torch.compile, export, FakeTensor,
meta, make_fx, torch.jit.trace      the operator ``fastrnn::layer``
torch.func, forward-mode AD         the formula in torch operations
==================================  =============================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastrnn.torch import formula, kernels, ops
from fastrnn.torch.cache import WeightCache

__all__ = ["eager", "eager_layer", "layer", "step"]

Options = tuple[str, bool, bool]
Marks = tuple[Tensor | None, Tensor | None, Tensor | None]

_transforms_active = torch._C._are_functorch_transforms_active
_dispatch_modes = torch._C._len_torch_dispatch_stack
_tracing = torch._C._is_tracing


class _Layer(torch.autograd.Function):
    # forward takes ctx: with setup_context a call costs three times as much

    @staticmethod
    def forward(
        ctx: Any,
        options: Options,
        marks: Marks,
        cache: WeightCache | None,
        x: Tensor,
        h0: Tensor | None,
        c0: Tensor | None,
        *weights: Tensor,
    ) -> tuple[Tensor, ...]:
        y, h_n, c_n, c, reserve = kernels.forward(
            *options, x, weights, h0, c0, *marks, True, cache=cache
        )
        ctx.options = options
        ctx.save_for_backward(x, h0, c0, *marks, y, c, reserve, *weights)
        ctx.set_materialize_grads(False)
        return (y, h_n) if c_n is None else (y, h_n, c_n)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        x, h0, c0, lengths, mask, reset, y, c, reserve, *weights = ctx.saved_tensors
        wanted = ctx.needs_input_grad[3:]
        gradients: Sequence[Tensor | None]
        if torch.is_grad_enabled():  # create_graph=True
            marks = lengths, mask, reset
            gradients = ops.recomputed_gradients(
                ctx.options, x, h0, c0, weights, marks, cotangents, wanted
            )
        else:
            dy, dh_n, dc_n = cotangents if len(cotangents) == 3 else (*cotangents, None)
            cell, batch_first, bidirectional = ctx.options
            gradients = kernels.backward(
                cell,
                batch_first,
                bidirectional,
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
        return (None, None, None, *gradients)


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        cell: str,
        cache: WeightCache | None,
        x: Tensor,
        h: Tensor | None,
        c: Tensor | None,
        *weights: Tensor,
    ) -> Tensor | tuple[Tensor, Tensor]:
        h_n, c_n, reserve = kernels.step(cell, x, weights, h, c, True, cache)
        ctx.cell = cell
        ctx.save_for_backward(x, h, c, h_n, c_n, reserve, *weights)
        ctx.set_materialize_grads(False)
        return h_n if c_n is None else (h_n, c_n)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        x, h, c, h_n, c_n, reserve, *weights = ctx.saved_tensors
        wanted = ctx.needs_input_grad[2:]
        gradients: Sequence[Tensor | None]
        if torch.is_grad_enabled():  # create_graph=True
            h, c, dh, dc = (_sequence(t) for t in (h, c, *(*cotangents, None)[:2]))
            dx, dh0, dc0, *dweights = ops.recomputed_gradients(
                (ctx.cell, False, False),
                x.unsqueeze(0),
                h,
                c,
                weights,
                (None, None, None),
                (None, dh, dc),
                wanted,
            )
            gradients = [*(None if g is None else g.squeeze(0) for g in (dx, dh0, dc0)), *dweights]
        else:
            dh, dc = (*cotangents, None)[:2]
            gradients = kernels.backward(
                ctx.cell,
                False,
                False,
                x,
                weights,
                h,
                c,
                None,
                None,
                None,
                h_n,
                c_n,
                reserve,
                None,
                dh,
                dc,
                wanted,
            )
        return (None, None, *gradients)


def _sequence(step: Tensor | None) -> Tensor | None:
    return None if step is None else step.unsqueeze(0)


_PLAIN = (Tensor, torch.nn.Parameter)


def eager(x: Tensor) -> bool:
    """Whether the core may be called at once: there is memory to read, and nobody who must see an
    operator.
    """
    return (
        type(x) in _PLAIN
        and x.is_cpu
        and not torch.compiler.is_compiling()
        and not _transforms_active()
        and forward_ad._current_level < 0
        and not _dispatch_modes()
        and not _tracing()
    )


def layer(
    cell: str,
    batch_first: bool,
    bidirectional: bool,
    x: Tensor,
    weights: Sequence[Tensor],
    h0: Tensor | None = None,
    c0: Tensor | None = None,
    lengths: Tensor | None = None,
    mask: Tensor | None = None,
    reset: Tensor | None = None,
    cache: WeightCache | None = None,
) -> tuple[Tensor, ...]:
    """x (T, B, I) -> y (T, B, D*P), h_n (D, B, P) and for the LSTM c_n (D, B, H).

    D = 2 directions when ``bidirectional``, else 1; weights: w_ih, w_hh (, b_ih, b_hh) (, w_hr), D
    times; h0 (D, B, P), c0 (D, B, H); P = H without w_hr. ``batch_first`` swaps T and
    B of x, y, mask, reset. float32 or float64 throughout.
    """
    if eager(x):
        return eager_layer(
            (cell, batch_first, bidirectional), x, weights, h0, c0, (lengths, mask, reset), cache
        )
    inputs = x, weights, h0, c0, lengths, mask, reset
    return _elsewhere(cell, batch_first, bidirectional, *inputs)


def eager_layer(
    options: Options,
    x: Tensor,
    weights: Sequence[Tensor],
    h0: Tensor | None,
    c0: Tensor | None,
    marks: Marks = (None, None, None),
    cache: WeightCache | None = None,
) -> tuple[Tensor, ...]:
    """:func:`layer` where :func:`eager` holds. options: cell, batch_first, bidirectional."""
    if torch.is_grad_enabled() and _needs_gradient(x, weights, h0, c0):
        return _Layer.apply(  # type: ignore[no-any-return, no-untyped-call]
            options, marks, cache, x, h0, c0, *weights
        )
    y, h_n, c_n, _, _ = kernels.forward(*options, x, weights, h0, c0, *marks, False, cache=cache)
    return (y, h_n) if c_n is None else (y, h_n, c_n)


def _needs_gradient(
    x: Tensor, weights: Sequence[Tensor], h0: Tensor | None, c0: Tensor | None
) -> bool:
    if x.requires_grad or (h0 is not None and h0.requires_grad):
        return True
    for w in weights:
        if w.requires_grad:
            return True
    return c0 is not None and c0.requires_grad


def _elsewhere(
    cell: str, batch_first: bool, bidirectional: bool, *inputs: Any
) -> tuple[Tensor, ...]:
    if not torch.compiler.is_compiling() and (
        _transforms_active() or forward_ad._current_level >= 0
    ):
        return formula.layer(cell, batch_first, bidirectional, *inputs)
    x, weights, h0, c0 = inputs[:4]
    # torch.jit.trace checks its graph without gradients, and wants the same one
    save = (torch.is_grad_enabled() or _tracing()) and _needs_gradient(x, weights, h0, c0)
    y, h_n, c_n, _, _ = ops.layer(cell, batch_first, bidirectional, *inputs, save)
    return (y, h_n, c_n) if cell == "lstm" else (y, h_n)


def step(
    cell: str,
    x: Tensor,
    weights: Sequence[Tensor],
    h: Tensor | None = None,
    c: Tensor | None = None,
    cache: WeightCache | None = None,
) -> tuple[Tensor, ...]:
    """One step: x (B, I), h and c (B, H) -> h and for the LSTM c, (B, H)."""
    if eager(x):
        if torch.is_grad_enabled() and _needs_gradient(x, weights, h, c):
            found = _Step.apply(cell, cache, x, h, c, *weights)  # type: ignore[no-untyped-call]
            return found if isinstance(found, tuple) else (found,)
        h_n, c_n, _ = kernels.step(cell, x, weights, h, c, False, cache)
        return (h_n,) if c_n is None else (h_n, c_n)
    _, *finals = layer(cell, False, False, x.unsqueeze(0), weights, _sequence(h), _sequence(c))
    return tuple(final.squeeze(0) for final in finals)
