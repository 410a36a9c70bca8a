"""From tensors to the compiled core: allocate the results, fill them. No autograd here."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastrnn._core import WeightCache
from fastrnn.torch import recompute
from fastrnn.torch.precision import is_half
from fastrnn.torch.spec import Inputs, Results, Spec

__all__ = ["Saved", "backward", "forward"]

Saved = tuple[Tensor, Tensor | None, Tensor | None]  # y, c, reserve


def _readable(tensor: Tensor | None) -> Tensor | None:
    """The tensor, or a copy where its last axis is not contiguous or its sign is still to be
    flipped.
    """
    if tensor is None or (tensor.stride(-1) == 1 and not tensor.is_neg()):
        return tensor
    return tensor.resolve_neg().contiguous()


def _wide(of_c: Tensor | None) -> Tensor | None:
    """What is of c is in float32 where the rest is in 16 bits."""
    return of_c.float() if of_c is not None and is_half(of_c) else _readable(of_c)


def _all_readable(inputs: Inputs) -> tuple[object, ...]:
    x, weights, h0, c0, lengths, mask, reset, seed = inputs
    if lengths is not None:  # a copy: nobody may change it between the check and the use
        lengths = lengths.to(torch.int64, copy=True)
    return _readable(x), weights, _readable(h0), _wide(c0), lengths, mask, reset, seed


def kept(spec: Spec, inputs: Inputs, T: int, B: int, H: int, P: int) -> tuple[int, int]:
    """Steps and units of what forward returns as reserve; they may be symbolic."""
    if spec.recompute:
        return recompute.chunks(T, B), P
    return T, spec.plan.kept(H, spec.is_projected(inputs.weights))


def forward(
    spec: Spec,
    inputs: Inputs,
    save: bool,
    filled: bool = False,
    cache: WeightCache | None = None,
    batch_sizes: Tensor | None = None,
) -> Results:
    """-> y (T, B, D*P), h_n (D, B, P), c_n (D, B, H), c (D, T, B, H), reserve (D, T, B, kept).

    c_n and c: LSTM only. c and reserve: with ``save`` only, for :func:`backward`. One step has no y
    and no c. ``filled``: reserve is 0 at the steps that a row does not take; else it is left as the
    memory was. ``cache``: where packed weights are kept for the next call. ``batch_sizes`` (T,): of
    a packed sequence, whose N rows of all steps take the place of (T, B) in x and in all results;
    on the CPU alone, without ``spec.recompute``.
    """
    if save and spec.recompute:
        if not inputs.x.is_cpu:
            raise NotImplementedError(
                f"fastrnn.torch: recompute=True trains on the CPU alone; got x on {inputs.x.device}"
            )
        return recompute.forward(spec, inputs)
    threads, keys = torch.get_num_threads(), spec.keys(inputs.seed)
    results: Results = spec.plan.forward(
        threads, _all_readable(inputs), keys, save, filled, cache, batch_sizes
    )
    y, h_n, c_n, c, reserve = results
    if c_n is None or not is_half(inputs.x):
        return results
    return y, h_n, c_n.to(inputs.x.dtype), c, reserve


def backward(
    spec: Spec,
    inputs: Inputs,
    saved: Saved,
    cotangents: Sequence[Tensor | None],
    wanted: Sequence[bool],
    batch_sizes: Tensor | None = None,
) -> list[Tensor | None]:
    """Gradients of x, h0, c0 and the weights, in this order; None where ``wanted`` says so.

    ``saved``: y, c and reserve of forward; after one step its h and c in the place of y and c.
    """
    if spec.recompute:
        return recompute.backward(spec, inputs, saved, cotangents, wanted)
    threads, keys = torch.get_num_threads(), spec.keys(inputs.seed)
    dy, dh_n, dc_n = cotangents
    y, c, reserve = saved
    gradients = spec.plan.backward(
        threads,
        _all_readable(inputs),
        keys,
        y,
        _wide(c),
        reserve,
        _readable(dy),
        _readable(dh_n),
        _wide(dc_n),
        wanted,
        batch_sizes,
    )
    if gradients[2] is not None and is_half(inputs.x):
        gradients[2] = gradients[2].to(inputs.x.dtype)
    if spec.bidirectional and wanted[0]:
        gradients[0] = torch.add(gradients[0][0], gradients[0][1])
    return gradients
