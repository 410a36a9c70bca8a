"""The layer in plain, differentiable torch operations: one step after another, the same semantics
as the core's.

It serves what the core does not compute: derivatives of third and higher order, forward mode of
what is differentiated backwards too, second derivatives and forward mode on a CUDA device, and the
transforms of ``torch.func``. The equations, the names and the order are those of
``fastrnn.reference``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from fastrnn.reference import philox
from fastrnn.reference.activations import RELU, Activation
from fastrnn.reference.features import Settings
from fastrnn.reference.gru import GRU, GRU_RESET_BEFORE
from fastrnn.reference.lstm import LSTM, LSTM_COUPLED
from fastrnn.reference.rnn import RNN
from fastrnn.torch.precision import convert, is_half
from fastrnn.torch.spec import Inputs, Spec

__all__ = ["layer"]

States = tuple[Tensor, ...]

_FUNCTIONS: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "sigmoid": lambda a, p, q: torch.sigmoid(a),
    "tanh": lambda a, p, q: torch.tanh(a),
    "relu": lambda a, p, q: torch.relu(a),
    "affine": lambda a, p, q: p * a + q,
    "leakyrelu": lambda a, p, q: torch.where(a >= 0, a, p * a),
    "thresholdedrelu": lambda a, p, q: torch.where(a >= p, a, 0.0),
    "scaledtanh": lambda a, p, q: p * torch.tanh(q * a),
    "hardsigmoid": lambda a, p, q: torch.clamp(p * a + q, 0.0, 1.0),
    "elu": lambda a, p, q: torch.where(a >= 0, a, p * torch.expm1(a.clamp(max=0.0))),
    "softsign": lambda a, p, q: a / (1.0 + a.abs()),
    "softplus": lambda a, p, q: torch.logaddexp(a, torch.zeros_like(a)),
}


def _normalised(a: Tensor, eps: float) -> Tensor:
    centred = a - a.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred * centred).mean(-1, keepdim=True) + eps)


@dataclass(frozen=True)
class _Row:
    """One direction: its weights by name, and what goes on around its gates."""

    w: dict[str, Tensor]
    on: Settings
    activations: tuple[Activation, ...]

    def input_gates(self, x: Tensor) -> Tensor:
        w = self.w
        return self.scaled(
            linear(x, w["weight_ih"]), w.get("gain_ih"), w.get("bias_ih"), slice(None)
        )

    def recurrent_gates(self, hidden: Tensor, rows: slice = slice(None)) -> Tensor:
        w = self.w
        product = linear(hidden, w["weight_hh"][rows])
        return self.scaled(product, w.get("gain_hh"), w.get("bias_hh"), rows)

    def scaled(
        self, product: Tensor, gain: Tensor | None, bias: Tensor | None, rows: slice
    ) -> Tensor:
        if gain is not None:
            assert self.on.layer_norm is not None
            product = _normalised(product, self.on.layer_norm.eps) * gain[rows]
        return product if bias is None else product + bias[rows]

    def activated(self, n: int, a: Tensor) -> Tensor:
        f = self.activations[n]
        return _FUNCTIONS[f.name](a, f.alpha, f.beta)

    def gate(self, n: int, a: Tensor, peephole: int | None = None, c: Any = None) -> Tensor:
        if peephole is not None and "peephole" in self.w:
            a = a + self.w["peephole"][peephole] * c
        return self.activated(n, a.clamp(-self.on.clip, self.on.clip))

    def c_and_input_of_output(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        c = raw.clamp(-self.on.cell_clip, self.on.cell_clip)
        norm = self.on.layer_norm
        if norm is None:
            return c, c
        scaled = _normalised(c, norm.eps) * self.w["gain_c"] + self.w["bias_c"]
        return (scaled, scaled) if norm.variant == "state" else (c, scaled)


def _lstm(k: _Row, gx: Tensor, hidden: Tensor, prev: States) -> States:
    c = prev[1]
    a_i, a_f, a_g, a_o = (gx + k.recurrent_gates(hidden)).chunk(4, -1)
    i, f, g = k.gate(0, a_i, 0, c), k.gate(1, a_f, 1, c), k.gate(2, a_g)
    c, u = k.c_and_input_of_output(f * c + i * g)
    return k.gate(3, a_o, 2, c) * k.activated(4, u), c


def _lstm_coupled(k: _Row, gx: Tensor, hidden: Tensor, prev: States) -> States:
    c = prev[1]
    a_i, a_g, a_o = (gx + k.recurrent_gates(hidden)).chunk(3, -1)
    i, g = k.gate(0, a_i, 0, c), k.gate(1, a_g)
    c, u = k.c_and_input_of_output((1.0 - i) * c + i * g)
    return k.gate(2, a_o, 1, c) * k.activated(3, u), c


def _gru(k: _Row, gx: Tensor, hidden: Tensor, prev: States) -> States:
    x_r, x_z, x_n = gx.chunk(3, -1)
    h_r, h_z, h_n = k.recurrent_gates(hidden).chunk(3, -1)
    r, z = k.gate(0, x_r + h_r), k.gate(1, x_z + h_z)
    n = k.gate(2, x_n + r * h_n)
    return (n + z * (prev[0] - n),)


def _gru_reset_before(k: _Row, gx: Tensor, hidden: Tensor, prev: States) -> States:
    early = 2 * hidden.shape[-1]
    a_r, a_z = (gx[..., :early] + k.recurrent_gates(hidden, slice(0, early))).chunk(2, -1)
    r, z = k.gate(0, a_r), k.gate(1, a_z)
    n = k.gate(2, gx[..., early:] + k.recurrent_gates(r * hidden, slice(early, None)))
    return (n + z * (prev[0] - n),)


def _rnn(k: _Row, gx: Tensor, hidden: Tensor, prev: States) -> States:
    return (k.gate(0, gx + k.recurrent_gates(hidden)),)


_CELLS: dict[str, tuple[Callable[..., States], tuple[Activation, ...]]] = {
    "lstm": (_lstm, LSTM.activations),
    "lstm_coupled": (_lstm_coupled, LSTM_COUPLED.activations),
    "gru": (_gru, GRU.activations),
    "gru_reset_before": (_gru_reset_before, GRU_RESET_BEFORE.activations),
    "rnn_tanh": (_rnn, RNN.activations),
    "rnn_relu": (_rnn, (RELU,)),
}


@dataclass(frozen=True)
class _Masks:
    """What the seed decides of one direction, as the core draws it; without one, expectations."""

    on: Settings
    key: int | None
    like: Tensor

    def tensor(self, array: Any) -> Tensor:
        return torch.as_tensor(array, dtype=self.like.dtype, device=self.like.device)

    def kept(self, p: float, shape: tuple[int, int, int], stream: int) -> Tensor | None:
        if self.key is None or p == 0.0:
            return None
        return self.tensor(philox.kept(shape, p, self.key, stream)[0])

    def zoneout(self, n: int, T: int, state: Tensor) -> Tensor | None:
        """The share of its old value that each unit keeps, (T, B, units)."""
        p = self.on.zoneout[n]
        if p == 0.0:
            return None
        shape = T, state.shape[0], state.shape[1]
        if self.key is None:
            return self.tensor(p).expand(shape)
        stream = (philox.ZONEOUT_H, philox.ZONEOUT_C)[n]
        return self.tensor(philox.happens(shape, p, self.key, stream))


def layer(spec: Spec, inputs: Inputs) -> States:
    """One layer -> y (T, B, D*P), h_n (D, B, P) and for the LSTM c_n (D, B, H); T and B of y
    swapped with ``batch_first``. 16-bit floats are computed in float32.
    """
    if torch._C._is_any_autocast_enabled():
        with torch.autocast(inputs.x.device.type, enabled=False):
            return _layer(spec, inputs)
    return _layer(spec, inputs)


def _layer(spec: Spec, inputs: Inputs) -> States:
    x, weights, h0, c0, lengths, mask, reset, seed = inputs
    if is_half(x):
        h0, c0 = (None if s is None else s.float() for s in (h0, c0))
        wide = x.float(), convert(weights, torch.float32), h0, c0
        return tuple(convert(_layer(spec, Inputs(*wide, *inputs[4:])), x.dtype))
    if spec.batch_first:
        x = x.transpose(0, 1)
        mask = None if mask is None else mask.transpose(0, 1)
        reset = None if reset is None else reset.transpose(0, 1)
    T, B = x.shape[:2]
    valid = None
    if lengths is not None:
        steps = torch.arange(T, device=x.device).unsqueeze(1)
        valid = (steps < lengths.to(x.device)).unsqueeze(-1)
    taken = valid
    if mask is not None:
        taken = mask.unsqueeze(-1) if valid is None else valid & mask.unsqueeze(-1)
    if taken is not None:
        # what is there may be NaN, and 0 * NaN would reach the weights' gradients
        x = torch.where(taken, x, 0.0)
    cleared = None if reset is None else reset.unsqueeze(-1)
    if cleared is not None and valid is not None:
        cleared = cleared & valid

    cell, usual = _CELLS[spec.cell]
    on = spec.settings or Settings()
    keys = spec.keys(seed) or (None, None)
    outputs, finals = [], []
    for d, w in enumerate(spec.rows(weights)):
        masks = _Masks(on, keys[d], x)
        H, P = w["weight_ih"].shape[0] // spec.gates, w["weight_hh"].shape[1]
        of_weights = masks.kept(on.weight_dropout, (1, spec.gates * H, P), philox.WEIGHT)
        if of_weights is not None:
            w["weight_hh"] = w["weight_hh"] * of_weights
        of_h = masks.kept(on.recurrent_dropout, (1, B, P), philox.RECURRENT)
        k = _Row(w, on, on.activations or usual)
        given = [(h0, P), (c0, H)] if spec.cell.startswith("lstm") else [(h0, P)]
        states: States = tuple(x.new_zeros((B, n)) if s is None else s[d] for s, n in given)
        zoneout = [masks.zoneout(n, T, s) for n, s in enumerate(states)]
        gates = k.input_gates(x)
        y: list[Tensor] = [states[0]] * T
        for t in range(T - 1, -1, -1) if d else range(T):
            if cleared is not None:
                states = tuple(torch.where(cleared[t], 0.0, s) for s in states)
            hidden = states[0] if of_h is None else states[0] * of_h
            after = cell(k, gates[t], hidden, states)
            if "weight_hr" in w:
                after = (linear(after[0], w["weight_hr"]), *after[1:])
            after = tuple(
                new if z is None else z[t] * old + (1.0 - z[t]) * new
                for z, new, old in zip(zoneout, after, states, strict=True)
            )
            if taken is not None:
                after = tuple(
                    torch.where(taken[t], new, old) for new, old in zip(after, states, strict=True)
                )
            states = after
            y[t] = states[0] if valid is None else torch.where(valid[t], states[0], 0.0)
        outputs.append(torch.stack(y) if T else x.new_zeros((0, B, P)))
        finals.append(states)
    output = torch.cat(outputs, -1) if len(outputs) > 1 else outputs[0]
    return (
        output.transpose(0, 1) if spec.batch_first else output,
        *(torch.stack(direction) for direction in zip(*finals, strict=True)),
    )
