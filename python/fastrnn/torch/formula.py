"""The layer in plain, differentiable torch operations: one step after another, the same semantics
as the core's.

It serves what the fused kernels do not compute: derivatives of second and higher order,
forward-mode differentiation, and the transforms of ``torch.func``. The equations are those of
``fastrnn.reference``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear

States = tuple[Tensor, ...]
Weights = tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]

__all__ = ["GATES", "by_direction", "layer"]

GATES = {"lstm": 4, "gru": 3, "gru_reset_before": 3, "rnn_tanh": 1, "rnn_relu": 1}


def _lstm(gx: Tensor, states: States, w: Weights) -> States:
    h, c = states
    i, f, g, o = (gx + linear(h, w[1], w[3])).chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)
    return (h if w[4] is None else linear(h, w[4])), c


def _gru(gx: Tensor, states: States, w: Weights) -> States:
    (h,) = states
    x_r, x_z, x_n = gx.chunk(3, -1)
    h_r, h_z, h_n = linear(h, w[1], w[3]).chunk(3, -1)
    z = torch.sigmoid(x_z + h_z)
    n = torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n)
    return (n + z * (h - n),)


def _gru_reset_before(gx: Tensor, states: States, w: Weights) -> States:
    (h,) = states
    H = h.shape[-1]
    w_hh, b_hh = w[1], w[3]
    early = gx[..., : 2 * H] + linear(h, w_hh[: 2 * H], None if b_hh is None else b_hh[: 2 * H])
    r, z = torch.sigmoid(early).chunk(2, -1)
    late = linear(r * h, w_hh[2 * H :], None if b_hh is None else b_hh[2 * H :])
    n = torch.tanh(gx[..., 2 * H :] + late)
    return (n + z * (h - n),)


def _rnn_tanh(gx: Tensor, states: States, w: Weights) -> States:
    return (torch.tanh(gx + linear(states[0], w[1], w[3])),)


def _rnn_relu(gx: Tensor, states: States, w: Weights) -> States:
    return (torch.relu(gx + linear(states[0], w[1], w[3])),)


_STEPS: dict[str, Callable[[Tensor, States, Weights], States]] = {
    "lstm": _lstm,
    "gru": _gru,
    "gru_reset_before": _gru_reset_before,
    "rnn_tanh": _rnn_tanh,
    "rnn_relu": _rnn_relu,
}


def by_direction(weights: Sequence[Tensor], directions: int) -> list[Weights]:
    """w_ih, w_hh, b_ih, b_hh, w_hr of each direction; None for what a layer does not have."""
    each = len(weights) // directions
    parts = []
    for d in range(directions):
        w_ih, w_hh, *rest = weights[d * each : (d + 1) * each]
        w_hr = rest.pop() if len(rest) % 2 else None
        b_ih, b_hh = rest or (None, None)
        parts.append((w_ih, w_hh, b_ih, b_hh, w_hr))
    return parts


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
) -> States:
    """One layer. x (T, B, I) -> y (T, B, D*P), h_n (D, B, P) and for the LSTM c_n (D, B, H).

    D = 2 directions when ``bidirectional``, else 1; P = H without a projection.
    ``batch_first`` swaps T and B of x, y, mask, reset.
    """
    if torch._C._is_any_autocast_enabled():
        with torch.autocast(x.device.type, enabled=False):
            return _layer(
                cell, batch_first, bidirectional, x, weights, h0, c0, lengths, mask, reset
            )
    return _layer(cell, batch_first, bidirectional, x, weights, h0, c0, lengths, mask, reset)


def _layer(
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
) -> States:
    if batch_first:
        x = x.transpose(0, 1)
        mask = None if mask is None else mask.transpose(0, 1)
        reset = None if reset is None else reset.transpose(0, 1)
    T = x.shape[0]
    valid = None
    if lengths is not None:
        steps = torch.arange(T, device=lengths.device).unsqueeze(1)
        valid = (steps < lengths).unsqueeze(-1)
    taken = valid
    if mask is not None:
        taken = mask.unsqueeze(-1) if valid is None else valid & mask.unsqueeze(-1)
    if taken is not None:
        # what is there may be NaN, and 0 * NaN would reach the weights' gradients
        x = torch.where(taken, x, 0.0)
    cleared = None if reset is None else reset.unsqueeze(-1)
    if cleared is not None and valid is not None:
        cleared = cleared & valid

    D = 2 if bidirectional else 1
    parts = by_direction(weights, D)
    outputs, finals = [], []
    for d, w in enumerate(parts):
        B, H, P = x.shape[1], w[0].shape[0] // GATES[cell], w[1].shape[1]
        zeros = x.new_zeros((B, P))
        given = [(h0, P), (c0, H)] if cell == "lstm" else [(h0, P)]
        states: States = tuple(x.new_zeros((B, n)) if s is None else s[d] for s, n in given)
        gates = linear(x, w[0], w[2])
        y: list[Tensor] = [zeros] * T
        for t in range(T - 1, -1, -1) if d else range(T):
            if cleared is not None:
                states = tuple(torch.where(cleared[t], 0.0, s) for s in states)
            after = _STEPS[cell](gates[t], states, w)
            if taken is not None:
                after = tuple(
                    torch.where(taken[t], new, old) for new, old in zip(after, states, strict=True)
                )
            states = after
            y[t] = states[0] if valid is None else torch.where(valid[t], states[0], 0.0)
        outputs.append(torch.stack(y) if T else x.new_zeros((0, B, P)))
        finals.append(states)
    output = torch.cat(outputs, -1) if D > 1 else outputs[0]
    return (
        output.transpose(0, 1) if batch_first else output,
        *(torch.stack(direction) for direction in zip(*finals, strict=True)),
    )
