"""The recurrent nodes of a model as layers, stacked where one feeds the next."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from fastrnn.modules import GRU, LSTM, RNN, Recurrent

from . import files
from .graph import Budget, Plan, Step, plan, run_quietly
from .graph import Recurrent as Node
from .operators import Layer
from .translation import Row, options, read

Array = npt.NDArray[Any]

_LAYERS: dict[str, Any] = {"LSTM": LSTM, "GRU": GRU, "RNN": RNN}


def load(model: files.Source) -> list[Recurrent[Any]]:
    """The recurrent nodes of a model (onnx.ModelProto, bytes or a path) as layers, in their order.

    Nodes of one kind of which each feeds the next, as exporters write a stack, are one layer with
    several levels. A layer takes sequences as its nodes do: (B, T, I) with layout 1, (T, B, I)
    otherwise. Lengths and initial states are arguments of its ``forward``. float16 and bfloat16
    become float32.

    Raises ValueError for a model that :func:`prepare` refuses, that has no recurrent node, or one
    with what a layer has not: activations that differ between directions, lengths that are
    constants, an initial state that is a constant other than 0, or weights that are none.
    """
    made = plan(model)
    nodes = [step for step in made.steps if isinstance(step.operation, Node)]
    if not nodes:
        raise ValueError("fastrnn.onnx.load: the model has no LSTM, GRU or RNN")
    stacks: list[list[_Level]] = []
    for step in nodes:
        level = _Level(made, step)
        if stacks and stacks[-1][-1].feeds(level):
            stacks[-1].append(level)
        else:
            stacks.append([level])
    return [_layer(levels) for levels in stacks]


class _Level:
    """A node, in the words of the layers."""

    def __init__(self, made: Plan, step: Step) -> None:
        assert isinstance(step.operation, Node)
        self.plan, self.step, self.attributes = made, step, step.operation.attributes
        layer = step.operation.layer
        if layer is None:
            raise ValueError(f"{step.where}: its weights are computed from the inputs of the model")
        self.layer: Layer = layer
        names = [*step.inputs, *[""] * (8 - len(step.inputs))]
        self.lengths = names[4]
        if self.lengths in made.constants:
            raise ValueError(f"{step.where}: sequence_lens is a constant")
        for role, name in (("initial_h", names[5]), ("initial_c", names[6])):
            if name in made.constants and np.any(made.constants[name]):
                raise ValueError(f"{step.where}: {role} is a constant that is not 0")
        described = [options(self.attributes, d) for d in range(layer.directions)]
        if described[0] != described[-1]:
            raise ValueError(f"{step.where}: activations that differ between directions")
        self.cell, self.options = described[0]
        weights = dict(zip("WRBP", (names[n] for n in (1, 2, 3, 7)), strict=True))
        arrays = {k: made.constants[n].astype(layer.compute) for k, n in weights.items() if n}
        self.rows = read(self.attributes, arrays)

    @property
    def kind(self) -> tuple[Any, ...]:
        """What the levels of a layer have in common."""
        attributes = self.attributes
        shared = (attributes.op, attributes.reverse, attributes.batch_first, self.layer.compute)
        return *shared, self.cell, self.options, self.lengths

    def feeds(self, after: _Level) -> bool:
        """Whether what the node `after` sees is this one's Y, with the directions side by side."""
        width = self.layer.directions * self.layer.hidden
        Y, X = self.step.outputs[0], after.step.inputs[0]
        if not Y or self.kind != after.kind or after.layer.inputs != width:
            return False
        between = _between(self.plan, Y, X)
        if between is None:
            return False
        shapes = [shape[:2] for _, shape in self.plan.inputs.values() if shape and len(shape) == 3]
        fixed = [(a, b) for a, b in shapes if a and b and a * b * width < 2**24]
        sizes = [[(3, 2), (2, 5)], *([size] for size in fixed), *([size[::-1]] for size in fixed)]
        return any(
            all(self._passes(between, X, size, turned) for size in tried)
            for tried in sizes
            for turned in (False, True)
        )

    def _passes(self, between: list[Step], X: str, size: tuple[int, int], turned: bool) -> bool:
        """Tried out: Y with numbers that are all different, first axes of `size` (the model's
        inputs have them so, or turned), and inputs whose values would show.
        """
        D, H = self.layer.directions, self.layer.hidden
        y = np.arange(math.prod(size) * D * H).reshape(*size, D, H).astype(self.layer.dtype)
        Y = y if self.attributes.batch_first else y.transpose(0, 2, 1, 3)
        values = {**self.plan.constants, self.step.outputs[0]: Y}
        for name, (dtype, shape) in self.plan.inputs.items():
            free = iter(size[::-1] if turned else size)
            filled = [next(free, 1) if n is None else n for n in shape or ()]
            values[name] = np.broadcast_to(np.array(1.75).astype(dtype), filled)
        try:
            run_quietly(between, values, Budget(2**31))
        except (ValueError, TypeError):
            return False
        return np.array_equal(values[X], y.reshape(*size, D * H))


def _between(made: Plan, first: str, last: str) -> list[Step] | None:
    """The steps from one value to another; None if another recurrent node has a part in it."""
    makers = {name: step for step in (*made.shaped, *made.steps) for name in step.outputs if name}
    found: list[Step] = []
    wanted, seen = [last], {first}
    while wanted:
        name = wanted.pop()
        if not name or name in seen or name in made.constants or name in made.inputs:
            continue
        seen.add(name)
        step = makers.get(name)
        if step is None or isinstance(step.operation, Node):
            return None
        found.append(step)
        wanted += step.inputs
    return [step for step in (*made.shaped, *made.steps) if any(step is one for one in found)]


def _layer(levels: list[_Level]) -> Recurrent[Any]:
    first = levels[0]
    chosen = dict(first.options)
    if first.attributes.op == "GRU":
        chosen["reset_after"] = first.attributes.linear_before_reset
    if first.attributes.op == "RNN":
        chosen["nonlinearity"] = first.cell.removeprefix("rnn_")
    if first.attributes.reverse == (True,):
        chosen["reverse"] = True
    names = {name for level in levels for row in level.rows for name in row}
    if "peephole" in names:
        chosen["peephole"] = True
    hidden = [level.layer.hidden for level in levels]
    layer: Recurrent[Any] = _LAYERS[first.attributes.op](
        first.layer.inputs,
        hidden if len(hidden) > 1 else hidden[0],
        bias="bias_ih" in names,
        batch_first=first.attributes.batch_first,
        bidirectional=first.layer.directions == 2,
        dtype=first.layer.compute,
        seed=0,
        **chosen,
    )
    layer.load_state_dict(dict(_parameters(layer, levels)))
    return layer


def _parameters(layer: Recurrent[Any], levels: list[_Level]) -> Iterator[tuple[str, Array]]:
    """By the layer's names; zeros for a bias or a peephole that a level has not."""
    for name, value in layer.parameters.items():
        kind, _, place = name.rpartition("_l")
        level, _, reverse = place.partition("_")
        row: Row = levels[int(level)].rows[1 if reverse else 0]
        yield name, row.get(kind, np.zeros_like(value))
