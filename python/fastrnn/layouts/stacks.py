"""How layouts keep several layers and two directions: in names, on an axis, in one flat array."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from .direction import GATES, Array, Direction, Layers
from .form import Form

Params = Mapping[str, Any]


class Stack(Protocol):
    """The two ways between a layout's arrays and layers of directions."""

    def read(self, params: Params, form: Form, merged: str) -> Layers: ...
    def write(self, layers: Layers, form: Form, strict: bool) -> dict[str, Array]: ...


def _layers(found: dict[tuple[int, int], Direction]) -> Layers:
    depth = 1 + max(layer for layer, _ in found)
    layers = [[found[key] for key in ((k, 0), (k, 1)) if key in found] for k in range(depth)]
    if [] in layers:
        raise ValueError(f"layer {layers.index([])} is missing")
    for k, layer in enumerate(layers):
        if len(layer) != len(layers[0]) or (k, 0) not in found:
            raise ValueError(f"layer {k} has not the directions of layer 0")
    return layers


@dataclass(frozen=True)
class InNames:
    """Each direction has its arrays; a pattern tells layer and direction by their names."""

    def parse(self, name: str) -> tuple[int, int, str]:
        """ "kernel", "reverse.kernel", "1.kernel", "1.reverse.kernel"."""
        match = re.fullmatch(r"(?:(\d{1,4})\.)?(reverse\.)?(.*)", name, re.DOTALL)
        assert match is not None
        return int(match[1] or 0), int(match[2] is not None), match[3]

    def format(self, name: str, layer: int, direction: int, depth: int) -> str:
        prefix = f"{layer}." if depth > 1 else ""
        return prefix + ("reverse." if direction else "") + name

    def read(self, params: Params, form: Form, merged: str) -> Layers:
        groups: dict[tuple[int, int], dict[str, Any]] = {}
        for name, array in params.items():
            layer, direction, plain = self.parse(name)
            groups.setdefault((layer, direction), {})[plain] = array
        if not groups:
            raise ValueError("there are no arrays")
        return _layers({key: form.read(group, merged) for key, group in groups.items()})

    def write(self, layers: Layers, form: Form, strict: bool) -> dict[str, Array]:
        return {
            self.format(name, k, d, len(layers)): array
            for k, layer in enumerate(layers)
            for d, direction in enumerate(layer)
            for name, array in form.write(direction, strict).items()
        }


@dataclass(frozen=True)
class InTorchNames(InNames):
    """ "weight_ih_l0", "weight_ih_l0_reverse"."""

    def parse(self, name: str) -> tuple[int, int, str]:
        match = re.fullmatch(r"(.*)_l(\d{1,4})(_reverse)?", name, re.DOTALL)
        if match is None:
            raise ValueError(f"{name}: unknown; names are like weight_ih_l0, bias_hh_l1_reverse")
        return int(match[2]), int(match[3] is not None), match[1]

    def format(self, name: str, layer: int, direction: int, depth: int) -> str:
        return f"{name}_l{layer}" + ("_reverse" if direction else "")


@dataclass(frozen=True)
class OnAxis:
    """Each array has the directions on its first axis; layers have names as in InNames."""

    def read(self, params: Params, form: Form, merged: str) -> Layers:
        names = InNames()
        layers: dict[int, dict[str, Array]] = {}
        for name, value in params.items():
            layer, direction, plain = names.parse(name)
            if direction:
                raise ValueError(f"{name}: unknown; the directions are on the arrays' first axis")
            layers.setdefault(layer, {})[plain] = np.asarray(value)
        if not layers:
            raise ValueError("there are no arrays")
        found: dict[tuple[int, int], Direction] = {}
        for k, arrays in layers.items():
            sizes = {name: array.shape[0] if array.ndim else 0 for name, array in arrays.items()}
            if len(set(sizes.values())) != 1 or not set(sizes.values()) <= {1, 2}:
                raise ValueError(
                    f"the first axis of all must be the 1 or 2 directions; got {sizes}"
                )
            for d in range(next(iter(sizes.values()))):
                one = {name: array[d] for name, array in arrays.items()}
                found[k, d] = form.read(one, merged)
        return _layers(found)

    def write(self, layers: Layers, form: Form, strict: bool) -> dict[str, Array]:
        written: dict[str, Array] = {}
        for k, layer in enumerate(layers):
            ones = [form.write(direction, strict) for direction in layer]
            if len({frozenset(one) for one in ones}) != 1:
                raise ValueError("one direction has a bias and the other has none")
            for name in ones[0]:
                key = InNames().format(name, k, 0, len(layers))
                written[key] = np.stack([one[name] for one in ones])
        return written


@dataclass(frozen=True)
class OneDnn:
    """weights_layer, weights_iter (L, D, I, G, O) ("ldigo"), bias (L, D, G, O).

    Layers of equal input size are on the first axis; others are apart, named as in InNames.
    """

    def read(self, params: Params, form: Form, merged: str) -> Layers:
        arrays = {name: np.asarray(value) for name, value in params.items()}
        found: dict[tuple[int, int], Direction] = {}
        groups: dict[int, dict[str, Array]] = {}
        for name, array in arrays.items():
            k, _, plain = InNames().parse(name)
            rank = 4 if plain == "bias" else 5
            if array.ndim != rank:
                raise ValueError(f"{name} must have {rank} axes, got shape {array.shape}")
            groups.setdefault(k, {})[plain] = array
        first = 0
        for k in sorted(groups):
            heads = {array.shape[:2] for array in groups[k].values()}
            if len(heads) != 1 or not 1 <= next(iter(heads))[1] <= 2:
                raise ValueError(f"the first axes must be L and the 1 or 2 directions; got {heads}")
            depth, directions = next(iter(heads))
            for layer in range(depth):
                for d in range(directions):
                    one = {
                        name: array[layer, d].reshape(*array.shape[2:-2], -1)
                        for name, array in groups[k].items()
                    }
                    found[first + layer, d] = form.read(one, merged)
            first += depth
        if not found:
            raise ValueError("there are no arrays")
        return _layers(found)

    def write(self, layers: Layers, form: Form, strict: bool) -> dict[str, Array]:
        written: dict[str, Array] = {}
        for k, layer in enumerate(layers):
            ones = [form.write(direction, strict) for direction in layer]
            hidden = layer[0].w_hh.shape[1]
            for name in ones[0]:
                stacked = np.stack([one[name] for one in ones])
                shape = (1, *stacked.shape[:-1], stacked.shape[-1] // hidden, hidden)
                written[InNames().format(name, k, 0, len(layers))] = stacked.reshape(shape)
        return written


def _number(name: str, value: Any) -> int:
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"{name} must be one integer, got {array.dtype} of shape {array.shape}")
    return int(array.item())


@dataclass(frozen=True)
class Flat:
    """cuDNN's and jax.experimental.rnn's: all matrices of all pseudo-layers, then all biases.

    ``weights`` flat, with ``input_size``, ``hidden_size``, ``num_layers``, ``num_directions``.
    """

    def read(self, params: Params, form: Form, merged: str) -> Layers:
        sizes = ("input_size", "hidden_size", "num_layers", "num_directions")
        if missing := [name for name in ("weights", *sizes) if name not in params]:
            raise ValueError(f"{', '.join(missing)} is missing")
        if unknown := [name for name in params if name not in ("weights", *sizes)]:
            raise ValueError(f"{', '.join(unknown)}: unknown")
        flat = np.asarray(params["weights"])
        inputs, hidden, depth, directions = (_number(name, params[name]) for name in sizes)
        if min(inputs, hidden, depth) < 1 or directions not in (1, 2):
            raise ValueError(
                "input_size, hidden_size and num_layers must be positive, "
                f"num_directions 1 or 2; got {inputs}, {hidden}, {depth}, {directions}"
            )
        rows = len(GATES[form.kind]) * hidden
        first = directions * rows * (inputs + hidden)
        later = (depth - 1) * directions * rows * (directions * hidden + hidden)
        biases = depth * directions * 2 * rows
        if flat.ndim != 1 or flat.size not in (first + later, first + later + biases):
            raise ValueError(
                f"weights must be flat, of {first + later + biases} numbers, or {first + later} "
                f"without biases; got shape {flat.shape}"
            )
        at = 0

        def take(*shape: int) -> Array:
            nonlocal at
            count = int(np.prod(shape))
            at += count
            return flat[at - count : at].reshape(shape)

        layers = [
            [
                Direction(
                    take(rows, directions * hidden if k else inputs), take(rows, hidden), None, None
                )
                for _ in range(directions)
            ]
            for k in range(depth)
        ]
        if flat.size == at:
            return layers
        return [
            [replace(one, b_ih=take(rows), b_hh=take(rows)) for one in layer] for layer in layers
        ]

    def write(self, layers: Layers, form: Form, strict: bool) -> dict[str, Array]:
        arrays = [[form.write(one, strict) for one in layer] for layer in layers]
        every = [one for layer in arrays for one in layer]
        _check_uniform(layers)
        matrices = [one[name].reshape(-1) for one in every for name in (form.ih, form.hh)]
        names = list(form.bias.rows)
        has_bias = any(name in one for one in every for name in names)
        biases: Sequence[Array] = []
        if has_bias:
            size = len(GATES[form.kind]) * layers[0][0].w_hh.shape[1]
            zero = np.zeros(size, matrices[0].dtype)
            biases = [one.get(name, zero) for one in every for name in names]
        return {
            "weights": np.concatenate([*matrices, *biases]),
            "input_size": np.array(layers[0][0].w_ih.shape[1]),
            "hidden_size": np.array(layers[0][0].w_hh.shape[1]),
            "num_layers": np.array(len(layers)),
            "num_directions": np.array(len(layers[0])),
        }


def _check_uniform(layers: Layers) -> None:
    hidden, directions = layers[0][0].w_hh.shape[1], len(layers[0])
    for k, layer in enumerate(layers):
        for one in layer:
            inputs = directions * hidden if k else layers[0][0].w_ih.shape[1]
            if one.w_hh.shape[1] != hidden or one.w_ih.shape[1] != inputs:
                raise ValueError(
                    f"it holds layers of one hidden size; layer {k} has weights {one.w_ih.shape} "
                    f"and {one.w_hh.shape}, wanted I = {inputs} and H = {hidden}"
                )
