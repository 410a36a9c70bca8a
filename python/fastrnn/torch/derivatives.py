"""Second derivatives and forward mode of a layer on the CPU, by the core
(:mod:`fastrnn.derivatives`). On other devices, and from the third derivatives on, they are those of
the formula in torch operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastrnn import _core, checkpoint
from fastrnn.torch import kernels, ops
from fastrnn.torch.recompute import as_numpy, calls, joined
from fastrnn.torch.spec import Inputs, Results, Spec

__all__ = ["backward", "forward_mode"]

Tensors = Sequence[Tensor | None]
_ARGUMENTS = {  # of the core, by torch's names; the others have the same
    **{"weight_ih": "w_ih", "weight_hh": "w_hh", "bias_ih": "b_ih", "bias_hh": "b_hh"},
    **{"weight_hr": "w_hr"},
}


def backward(
    spec: Spec,
    inputs: Inputs,
    saved: kernels.Saved,
    cotangents: Tensors,
    wanted: Sequence[bool],
) -> Tensors:
    """As :func:`fastrnn.torch.kernels.backward`; the gradients can be differentiated."""
    x, weights, h0, c0, *marks = inputs
    gradients: Tensors = _Backward.apply(  # type: ignore[no-untyped-call]
        spec, wanted, saved, marks, *cotangents, x, h0, c0, *weights
    )
    return gradients


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        spec: Spec,
        wanted: Sequence[bool],
        saved: kernels.Saved,
        marks: Tensors,
        dy: Tensor | None,
        dh_n: Tensor | None,
        dc_n: Tensor | None,
        x: Tensor,
        h0: Tensor | None,
        c0: Tensor | None,
        *weights: Tensor,
    ) -> tuple[Tensor | None, ...]:
        ctx.spec, ctx.wanted, ctx.marks = spec, wanted, marks
        ctx.save_for_backward(dy, dh_n, dc_n, x, h0, c0, *weights)
        ctx.set_materialize_grads(False)
        inputs = Inputs(x, weights, h0, c0, *marks)
        return tuple(kernels.backward(spec, inputs, saved, (dy, dh_n, dc_n), wanted))

    @staticmethod
    def backward(ctx: Any, *u: Tensor | None) -> tuple[Tensor | None, ...]:
        dy, dh_n, dc_n, x, h0, c0, *weights = ctx.saved_tensors
        inputs, cotangents = Inputs(x, weights, h0, c0, *ctx.marks), (dy, dh_n, dc_n)
        plain = all(t is None or type(t) is Tensor for t in u)
        by_core = x.is_cpu and plain and not torch._C._are_functorch_transforms_active()
        if torch.is_grad_enabled() or not by_core:
            found = _by_formula(ctx.spec, inputs, cotangents, ctx.wanted, u)
        elif x.dim() == 2:
            found = _of_step(ctx.spec, inputs, cotangents, u)
        else:
            found = _double_backward(ctx.spec, inputs, cotangents, u)
        return (None, None, None, None, *found)


def _sources(inputs: Inputs, cotangents: Tensors) -> Tensors:
    return *cotangents, inputs.x, inputs.h0, inputs.c0, *inputs.weights


def _by_formula(
    spec: Spec, inputs: Inputs, cotangents: Tensors, wanted: Sequence[bool], u: Tensors
) -> Tensors:
    """What :func:`_double_backward` computes, differentiable."""
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        sources = [None if t is None else t.view_as(t) for t in _sources(inputs, cotangents)]
        for t in sources:
            if t is not None and not t.requires_grad:
                t.requires_grad_()
        dy, dh_n, dc_n, x, h0, c0, *weights = sources
        assert x is not None
        aliases = inputs._replace(x=x, weights=weights, h0=h0, c0=c0)  # type: ignore[arg-type]
        given: Tensors = (dy, dh_n, dc_n)
        if x.dim() == 2:
            aliases, given = as_sequence(aliases), (None, *map(sequence, given[1:]))
        gradients = ops.recomputed_gradients(spec, aliases, given, wanted)
        results = [
            None if g is None or v is None else g.reshape(v.shape)
            for g, v in zip(gradients, u, strict=True)
        ]
        return ops.gradients_of(results, u, sources, differentiable)


def _of_step(spec: Spec, inputs: Inputs, cotangents: Tensors, u: Tensors) -> Tensors:
    ux, uh0, uc0, *uweights = u
    sequences = (None, *map(sequence, cotangents[1:]))
    of_sequence = _double_backward(
        spec, as_sequence(inputs), sequences, (*map(sequence, (ux, uh0, uc0)), *uweights)
    )
    dy, dh_n, dc_n, x, h0, c0, *weights = of_sequence
    return *(t if t is None else t.squeeze(0) for t in (dy, dh_n, dc_n, x, h0, c0)), *weights


def as_sequence(inputs: Inputs) -> Inputs:
    """One step as a sequence of one step."""
    return inputs._replace(x=inputs.x.unsqueeze(0), h0=sequence(inputs.h0), c0=sequence(inputs.c0))


def sequence(step: Tensor | None) -> Tensor | None:
    """A tensor of one step as that of a sequence of one step."""
    return None if step is None else step.unsqueeze(0)


def _double_backward(spec: Spec, inputs: Inputs, cotangents: Tensors, u: Tensors) -> Tensors:
    """Gradients of dy, dh_n, dc_n, x, h0, c0 and the weights, for what comes to the gradients of x,
    h0, c0 and the weights.
    """
    dy, dh_n, dc_n = map(as_numpy, cotangents)
    gradients, results = [], []
    for d, (call, saved, t) in enumerate(_along(spec, inputs, u)):
        columns = None if dy is None else np.split(dy, spec.directions, axis=-1)[d]
        dh, dc = (None if s is None else s[d] for s in (dh_n, dc_n))
        if isinstance(saved, checkpoint.Saved):
            g, r = checkpoint.backward_jvp(call.function, saved, t, columns, dh, dc, None, 0.0)
        else:
            cells = [call.cell]
            g, r = _core.backward_jvp(call.function, cells, saved, t, columns, dh, dc, None, 0.0)
        gradients.append(g)
        results.append(r)
    found = *_joined_results(results), *joined(spec, inputs, gradients)
    return [
        None if source is None else g
        for g, source in zip(found, _sources(inputs, cotangents), strict=True)
    ]


def forward_mode(spec: Spec, inputs: Inputs) -> tuple[Tensor, ...]:
    """As :func:`fastrnn.torch.layer.layer`, on inputs of which some carry a tangent."""
    x, weights, h0, c0, *marks = inputs
    unpack: Any = forward_ad.unpack_dual
    make: Any = forward_ad.make_dual
    duals = [t if t is None else unpack(t) for t in (x, h0, c0, *weights)]
    primals = [None if t is None else t.primal for t in duals]
    tangents = [None if t is None else t.tangent for t in duals]
    of = Inputs(primals[0], primals[3:], primals[1], primals[2], *marks)  # type: ignore[arg-type]
    results: Results = kernels.forward(spec, of, False)
    y, h_n, c_n = results[:3]
    if all(t is None for t in tangents):
        return (y, h_n) if c_n is None else (y, h_n, c_n)
    derivatives = []
    for call, saved, t in _along(spec, of, tangents):
        if isinstance(saved, checkpoint.Saved):
            derivatives.append(checkpoint.jvp(call.function, saved, t))
        else:
            derivatives.append(_core.jvp(call.function, [call.cell], saved, t))
    return tuple(
        make(value, tangent)
        for value, tangent in zip((y, h_n, c_n), _joined_results(derivatives), strict=True)
        if value is not None
    )


def _along(
    spec: Spec, inputs: Inputs, along: Tensors
) -> list[tuple[checkpoint.Call, Any, dict[str, Any]]]:
    """Of each direction: the call, what it saves, and ``along``, which is of x, h0, c0 and the
    weights, by the core's names.
    """
    tx, th0, tc0, *tweights = map(as_numpy, along)
    found = []
    for d, (call, row) in enumerate(zip(calls(spec, inputs), spec.rows(tweights), strict=True)):
        h0, c0 = (as_numpy(None if s is None else s[d]) for s in (inputs.h0, inputs.c0))
        if spec.recompute:
            saved = checkpoint.forward(call, h0, c0, "recompute", False)[3]
        else:
            saved = call.forward(slice(0, call.steps), h0, c0, True, False)[3]
        t = {"x": tx, **{_ARGUMENTS.get(name, name): a for name, a in row.items()}}
        t |= {name: s[d] for name, s in (("h0", th0), ("c0", tc0)) if s is not None}
        found.append((call, saved, {name: a for name, a in t.items() if a is not None}))
    return found


def _joined_results(results: Sequence[tuple[Any, ...]]) -> list[Tensor | None]:
    """y, h_n and c_n of the directions -> those of the layer."""
    y, h_n, c_n, _ = zip(*results, strict=True)
    output = y[0] if len(y) == 1 else np.concatenate(y, axis=-1)
    states = [None if s[0] is None else torch.from_numpy(np.stack(s)) for s in (h_n, c_n)]
    return [torch.from_numpy(output), *states]
