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
    """-> y (T, B, D*H), h_n (D, B, H), c_n (D, B, H), c (D, T, B, H), reserve (D, T, B, R*H).

    c_n and c: LSTM only. c and reserve: with ``save`` only, for :func:`backward`.
    ``filled``: reserve is 0 at the steps that a row does not take; else it is left as the memory
    was. ``cache``: where packed weights are kept for the next call.
    """
    rows, columns = x.shape[0], x.shape[1]
    T, B = (columns, rows) if batch_first else (rows, columns)
    D = 2 if bidirectional else 1
    H = weights[1].shape[1]
    y = x.new_empty((rows, columns, D * H))  # new_empty: 1 us, torch.empty: 1.3, empty_like: 0.6
    h_n = x.new_empty((D, B, H))
    c_n = torch.empty_like(h_n) if cell == "lstm" else None
    c = reserve = None
    if save:
        c = x.new_empty((D, T, B, H)) if cell == "lstm" else None
        reserve = x.new_empty((D, T, B, RESERVE[cell] * H)) if RESERVE[cell] else None
        if filled and reserve is not None:
            reserve.zero_()
    _core.layer_forward(
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
        h_n,
        c_n,
        c,
        reserve,
        cache,
    )
    return y, h_n, c_n, c, reserve


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
    D = 2 if bidirectional else 1
    B = x.shape[0] if batch_first or x.dim() == 2 else x.shape[1]
    H = weights[1].shape[1]
    state: tuple[int, ...] = (B, H) if x.dim() == 2 else (D, B, H)
    dx = None
    if wanted[0]:
        dx = x.new_empty(x.shape if x.dim() == 2 else (D, *x.shape))
    dh0 = x.new_empty(state) if wanted[1] else None
    dc0 = x.new_empty(state) if wanted[2] else None
    dweights = [
        x.new_empty(w.shape) if want else None for w, want in zip(weights, wanted[3:], strict=True)
    ]
    _core.layer_backward(
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
        dx,
        dweights,
        dh0,
        dc0,
    )
    if dx is not None and x.dim() == 3:
        dx = dx[0] if D == 1 else torch.add(dx[0], dx[1])
    return [dx, dh0, dc0, *dweights]


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
    B, H = x.shape[0], weights[1].shape[1]
    h_n = x.new_empty((B, H))
    c_n = torch.empty_like(h_n) if cell == "lstm" else None
    reserve = x.new_empty((B, RESERVE[cell] * H)) if save and RESERVE[cell] else None
    _core.layer_forward(
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
        None,
        h_n,
        c_n,
        None,
        reserve,
        cache,
    )
    return h_n, c_n, reserve
