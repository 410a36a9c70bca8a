"""From tensors to the compiled core: allocate the results, fill them. No autograd here."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastrnn import _core
from fastrnn._core import WeightCache

__all__ = ["RESERVE", "backward", "forward", "step"]

RESERVE = {"lstm": 4, "gru": 4, "gru_reset_before": 3, "rnn_tanh": 0, "rnn_relu": 0}


def _readable(tensor: Tensor | None) -> Tensor | None:
    """The tensor, or a copy where its last axis is not contiguous or its sign is still to be
    flipped.
    """
    if tensor is None or (tensor.stride(-1) == 1 and not tensor.is_neg()):
        return tensor
    return tensor.resolve_neg().contiguous()


def _own_lengths(lengths: Tensor | None) -> Tensor | None:
    """A copy: nobody may change it between the check and the use."""
    return None if lengths is None else lengths.to(torch.int64, copy=True)


def forward(
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
    filled: bool = False,
    cache: WeightCache | None = None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """-> y (T, B, D*P), h_n (D, B, P), c_n (D, B, H), c (D, T, B, H), reserve (D, T, B, R*H).

    P = H without a projection; with one, reserve is (D, T, B, R*H + H).
    c_n and c: LSTM only. c and reserve: with ``save`` only, for :func:`backward`.
    ``filled``: reserve is 0 at the steps that a row does not take; else it is left as the memory
    was. ``cache``: where packed weights are kept for the next call.
    """
    return _core.layer_forward(
        cell,
        batch_first,
        bidirectional,
        torch.get_num_threads(),
        _readable(x),
        weights,
        _readable(h0),
        _readable(c0),
        _own_lengths(lengths),
        mask,
        reset,
        save,
        filled,
        cache,
    )


def backward(
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
    y: Tensor,
    c: Tensor | None,
    reserve: Tensor | None,
    dy: Tensor | None,
    dh_n: Tensor | None,
    dc_n: Tensor | None,
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients of x, h0, c0 and the weights, in this order; None where ``wanted`` says so. After
    :func:`step`: y is its h, c its c.
    """
    gradients = _core.layer_backward(
        cell,
        batch_first,
        bidirectional,
        torch.get_num_threads(),
        _readable(x),
        weights,
        _readable(h0),
        _readable(c0),
        _own_lengths(lengths),
        mask,
        reset,
        y,
        c,
        reserve,
        _readable(dy),
        _readable(dh_n),
        _readable(dc_n),
        wanted,
    )
    if bidirectional and wanted[0]:
        gradients[0] = torch.add(gradients[0][0], gradients[0][1])
    return gradients


def step(
    cell: str,
    x: Tensor,
    weights: Sequence[Tensor],
    h: Tensor | None,
    c: Tensor | None,
    save: bool,
    cache: WeightCache | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """One step: x (B, I), h and c (B, H) -> h, c (LSTM only), reserve (B, R*H) (with ``save``)."""
    _, h_n, c_n, _, reserve = _core.layer_forward(
        cell,
        False,
        False,
        torch.get_num_threads(),
        _readable(x),
        weights,
        _readable(h),
        _readable(c),
        None,
        None,
        None,
        save,
        False,
        cache,
    )
    return h_n, c_n, reserve
