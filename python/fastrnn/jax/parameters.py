"""A dictionary of parameters with torch's names: read, checked, made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

GATES = {"lstm": 4, "gru": 3, "rnn": 1}
NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")

Weights = tuple[tuple[Array, ...], ...]  # of one layer, by direction


def init(
    key: Array,
    cell: Literal["lstm", "gru", "rnn"],
    input_size: int,
    hidden_size: int,
    num_layers: int = 1,
    *,
    bias: bool = True,
    bidirectional: bool = False,
    dtype: Any = jnp.float32,
) -> dict[str, Array]:
    """Parameters with torch's names, shapes and distribution: uniform within 1 / sqrt(H).

    weight_ih_l0 (GH, I), weight_hh_l0 (GH, H), bias_ih_l0, bias_hh_l0 (GH,), then _l0_reverse, _l1,
    ...; G is 4 for the LSTM, 3 for the GRU, 1 for the RNN.
    """
    if cell not in GATES:
        raise ValueError(f"init: argument 'cell' must be one of {', '.join(GATES)}, got {cell!r}")
    for name, size in (
        ("input_size", input_size),
        ("hidden_size", hidden_size),
        ("num_layers", num_layers),
    ):
        if size < 1:
            raise ValueError(f"init: argument {name!r} must be >= 1, got {size}")
    rows, bound, shapes = GATES[cell] * hidden_size, hidden_size**-0.5, {}
    directions = ("", "_reverse") if bidirectional else ("",)
    for layer in range(num_layers):
        inputs = len(directions) * hidden_size if layer else input_size
        for direction in directions:
            sizes: list[tuple[int, ...]] = [(rows, inputs), (rows, hidden_size), (rows,), (rows,)]
            for name, shape in zip(NAMES, sizes[: 4 if bias else 2], strict=False):
                shapes[f"{name}_l{layer}{direction}"] = shape
    keys = jax.random.split(key, len(shapes))
    return {
        name: jax.random.uniform(k, shape, dtype, -bound, bound)
        for k, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def read(function: str, params: Mapping[str, Any], gates: int, inputs: int) -> list[Weights]:
    """The weights by layer and direction. Raises ValueError where names or shapes do not fit."""
    found: dict[tuple[int, int], dict[str, Array]] = {}
    for key, value in params.items():
        match = re.fullmatch(rf"({'|'.join(NAMES)})_l(\d+)(_reverse)?", key)
        if match is None:
            raise ValueError(
                f"{function}: argument 'params' has {key!r}; names are like weight_ih_l0, "
                "bias_hh_l1_reverse"
            )
        place = int(match[2]), int(match[3] is not None)
        found.setdefault(place, {})[match[1]] = jnp.asarray(value)
    depth = 1 + max((layer for layer, _ in found), default=0)
    directions = 1 + max((direction for _, direction in found), default=0)
    has_bias = any("bias_ih" in one for one in found.values())
    names = NAMES[: 4 if has_bias else 2]
    layers = []
    for layer in range(depth):
        weights = []
        for direction in range(directions):
            suffix = f"_l{layer}" + ("_reverse" if direction else "")
            one = found.get((layer, direction), {})
            if missing := [name + suffix for name in names if name not in one]:
                raise ValueError(f"{function}: argument 'params' lacks {', '.join(missing)}")
            hidden = one["weight_hh"].shape[-1] if one["weight_hh"].ndim == 2 else 0
            rows = gates * hidden
            wanted = ((rows, inputs), (rows, hidden), (rows,), (rows,))
            symbols = (f"({gates}H, I)", f"({gates}H, H)", f"({gates}H,)", f"({gates}H,)")
            for name, shape, symbol in zip(names, wanted, symbols, strict=False):
                if one[name].shape != shape or hidden == 0:
                    raise ValueError(
                        f"{function}: {name}{suffix} must have shape {symbol} = {shape}, "
                        f"got {one[name].shape}"
                    )
            weights.append(tuple(one[name] for name in names))
        if len({w[1].shape for w in weights}) != 1:
            raise ValueError(f"{function}: both directions of layer {layer} must have the same H")
        layers.append(tuple(weights))
        inputs = directions * weights[0][1].shape[1]
    return layers
