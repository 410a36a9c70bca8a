"""``recompute=True``: forward keeps the state where chunks of steps begin, backward runs forward
again from there (:mod:`fastrnn.checkpoint`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastrnn import checkpoint
from fastrnn.reference.features import LayerNorm, Settings
from fastrnn.torch.spec import Inputs, Results, Spec

__all__ = ["as_numpy", "backward", "calls", "chunks", "forward", "joined"]

_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
_NORMS = ("gain_ih", "gain_hh", "gain_c", "bias_c")
_GRADIENTS = ("x", *_WEIGHTS, "h0", "c0", "weight_hr", "peephole", *_NORMS)  # in the core's order


def chunks(T: int, B: int) -> int:
    """How many there are; symbolic if T and B are."""
    larger: Any = torch.sym_max
    length = larger(1, checkpoint.RECOMPUTE_ROWS // larger(1, B))
    number: int = larger(1, (T + length - 1) // length)
    return number


def forward(spec: Spec, inputs: Inputs) -> Results:
    """As :func:`fastrnn.torch.kernels.forward` with ``save``, but for reserve (D, N, B, P) and c
    (D, N, B, H): h and c before each of N chunks.
    """
    results: list[tuple[Any, ...]] = []
    for d, call in enumerate(calls(spec, inputs)):
        h0, c0 = (as_numpy(s if s is None else s[d]) for s in (inputs.h0, inputs.c0))
        y, h_n, c_n, saved, _, _ = checkpoint.forward(call, h0, c0, "recompute", False)
        states = []
        for last, kept in (
            (h_n, [s[0] for s in saved.states]),
            (c_n, [s[1] for s in saved.states]),
        ):
            if last is not None:
                states.append(np.stack([np.zeros_like(last) if s is None else s for s in kept]))
        results.append((y, h_n, c_n, *reversed(states)))
    y, h_n, c_n, *kept = zip(*results, strict=True)
    c, reserve = (None, *kept)[-2:]
    output = y[0] if len(y) == 1 else np.concatenate(y, axis=-1)

    def stacked(each: Any) -> Any:
        return None if each is None or each[0] is None else torch.from_numpy(np.stack(each))

    return torch.from_numpy(output), stacked(h_n), stacked(c_n), stacked(c), stacked(reserve)


def backward(
    spec: Spec,
    inputs: Inputs,
    saved: tuple[Tensor, Tensor | None, Tensor | None],
    cotangents: Sequence[Tensor | None],
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """As :func:`fastrnn.torch.kernels.backward`."""
    _, c, reserve = saved
    dy, dh_n, dc_n = (as_numpy(t) for t in cotangents)
    of_weights = iter(wanted[3:])
    results = []
    for d, (call, row) in enumerate(
        zip(calls(spec, inputs), spec.rows(inputs.weights), strict=True)
    ):
        h_states = as_numpy(reserve)[d]
        c_states = [None] * len(h_states) if c is None else as_numpy(c)[d]
        length = call.chunk_length("recompute")
        kept = checkpoint.Saved(call, length, list(zip(h_states, c_states, strict=True)))
        columns = None if dy is None else np.split(dy, spec.directions, axis=-1)[d]
        dh, dc = (None if s is None else s[d] for s in (dh_n, dc_n))
        of_row = islice(of_weights, len(row))
        asked = dict(zip(("x", "h0", "c0", *row), (*wanted[:3], *of_row), strict=True))
        named = [asked.get(name, False) for name in _GRADIENTS]
        results.append(
            checkpoint.backward(call.function, kept, columns, dh, dc, None, 0.0, False, None, named)
        )
    return joined(spec, inputs, results)


def joined(spec: Spec, inputs: Inputs, results: Sequence[Sequence[Any]]) -> list[Tensor | None]:
    """Gradients of the directions, in the core's order -> of x, h0, c0 and the weights; None for
    what was not computed.
    """
    named = [dict(zip(_GRADIENTS, result, strict=False)) for result in results]
    dx, *more = (of["x"] for of in named)
    for part in more:
        dx = None if dx is None else np.add(dx, part, out=dx)
    states = ([of[name] for of in named] for name in ("h0", "c0"))
    dh0, dc0 = (None if of[0] is None else np.stack(of) for of in states)
    rows = spec.rows(inputs.weights)
    dweights = [of[name] for of, row in zip(named, rows, strict=True) for name in row]
    return [None if g is None else torch.from_numpy(g) for g in (dx, dh0, dc0, *dweights)]


def calls(spec: Spec, inputs: Inputs) -> list[checkpoint.Call]:
    """Calls of the core, one for each direction."""
    x = as_numpy(inputs.x)
    lengths = None
    if inputs.lengths is not None:
        steps = x.shape[1 if spec.batch_first else 0]
        lengths = checkpoint.checked_lengths("layer_forward", as_numpy(inputs.lengths), steps)
    keys = spec.keys(inputs.seed)
    made = []
    for d, row in enumerate(spec.rows(inputs.weights)):
        w = {name: as_numpy(weight) for name, weight in row.items()}
        w_ih, w_hh, b_ih, b_hh = (w.get(name) for name in _WEIGHTS)
        call = checkpoint.Call(
            "layer_forward",
            spec.cell,
            x,
            (w_ih, w_hh, b_ih, b_hh),
            lengths,
            as_numpy(inputs.mask),
            as_numpy(inputs.reset),
            d == 1,
            spec.batch_first,
            None,
            _settings(spec, w, None if keys is None else keys[d]),
            x,
            torch.get_num_threads(),
        )
        made.append(call)
    return made


def _settings(spec: Spec, w: dict[str, Any], key: int | None) -> Settings | None:
    if not spec.options and "weight_hr" not in w:
        return None
    on = spec.settings or Settings()
    norm = on.layer_norm
    if norm is not None:
        gain_ih, gain_hh, gain_c, bias_c = (w.get(name) for name in _NORMS)
        norm = LayerNorm(gain_ih, gain_hh, gain_c, bias_c, norm.variant, norm.eps)
    return replace(
        on,
        w_hr=w.get("weight_hr"),
        peephole=w.get("peephole"),
        layer_norm=norm,
        seed=key or 0,
        training=key is not None,
    )


def as_numpy(tensor: Tensor | None) -> Any:
    return None if tensor is None else tensor.detach().resolve_neg().numpy()
