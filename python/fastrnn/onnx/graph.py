"""A model made ready to run, and run.

What depends on nothing but constants is computed once, when the model is made ready; what depends
on nothing but the shapes of the inputs (the zeros that exporters make for an initial state), once
for each shape that comes again. What is left runs node by node, and a result is let go after its
last use.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx

from . import attributes, checks, files
from .glue import Glue
from .operators import Layer

Array = npt.NDArray[Any]
Values = dict[str, Any]
Declared = tuple[np.dtype[Any], tuple[int | None, ...] | None]

MAX_BYTES = 2**31


class Operation(Protocol):
    def size(self, inputs: Sequence[Any]) -> int: ...
    def run(self, inputs: Sequence[Any]) -> tuple[Array, ...]: ...


class Recurrent:
    """A node LSTM, GRU or RNN. Weights that are constants are packed here; others at every run."""

    def __init__(self, node: onnx.NodeProto, constants: Mapping[str, Array]) -> None:
        self.where = checks.where(node)
        self.attributes = attributes.checked(self.where, node.op_type, checks.values_of(node))
        names = [*node.input, *[""] * (8 - len(node.input))]
        weights = [names[n] for n in (1, 2, 3, 7)]
        self.layer: Layer | None = None
        if all(not name or name in constants for name in weights):
            self.layer = self._layer([constants.get(name) for name in weights])

    def _layer(self, weights: Sequence[Any]) -> Layer:
        return Layer(self.where, self.attributes, *weights)

    def size(self, inputs: Sequence[Any]) -> int:
        X, R = inputs[0], inputs[2]
        units = R.shape[::2] if self.layer is None else (self.layer.directions, self.layer.hidden)
        return math.prod((*X.shape[:2], *units, X.dtype.itemsize))

    def run(self, inputs: Sequence[Any]) -> tuple[Array, ...]:
        filled: list[Any] = [*inputs, *[None] * (8 - len(inputs))]
        X, W, R, B, lengths, h0, c0, P = filled
        layer = self.layer or self._layer([W, R, B, P])
        return layer(X, lengths, h0, c0)


@dataclass
class Step:
    """A node in its place: `dead` are the values that nothing needs after it."""

    where: str
    operation: Operation
    inputs: list[str]
    outputs: list[str]
    dead: list[str] = field(default_factory=list)

    def run(self, values: Values, budget: Budget) -> None:
        inputs = [values[name] if name else None for name in self.inputs]
        try:
            budget.check(self.operation.size(inputs))
            results = self.operation.run(inputs)
        except Exception as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            text = str(error.__cause__ or error)
            raise kind(text if text.startswith(self.where) else f"{self.where}: {text}") from error
        if len(results) < len(self.outputs):
            raise ValueError(f"{self.where}: it gives {len(results)} outputs")
        for name, result in zip(self.outputs, results, strict=False):
            if name:
                values[name] = result
                budget.used += result.nbytes
        for name in self.dead:
            budget.used -= values.pop(name).nbytes


@dataclass
class Budget:
    """Bytes of the values that are alive."""

    limit: int
    used: int = 0

    def check(self, more: int) -> None:
        if self.used + more > self.limit:
            raise ValueError(
                f"its result of {more} bytes would, with {self.used} in use, be more than "
                f"max_bytes = {self.limit}"
            )


@dataclass
class Plan:
    """What is known, what the shapes of the inputs determine, and the rest, in order."""

    inputs: dict[str, Declared]
    outputs: list[str]
    constants: Values
    shaped: list[Step] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

    def let_go_of_packed_weights(self) -> None:
        for step in self.steps:
            if isinstance(step.operation, Recurrent) and step.operation.layer is not None:
                names = [*step.inputs, *[""] * (8 - len(step.inputs))]
                step.inputs = [names[0], "", "", "", *names[4:7], ""]
        used = {name for step in (*self.shaped, *self.steps) for name in step.inputs}
        used |= set(self.outputs)
        self.constants = {name: a for name, a in self.constants.items() if name in used}

    def mark_the_dead(self) -> None:
        last = {name: step for step in self.steps for name in (*step.outputs, *step.inputs)}
        by_shape = (name for step in self.shaped for name in step.outputs)
        for name in {"", *self.constants, *by_shape, *self.inputs, *self.outputs}:
            last.pop(name, None)
        for name, step in last.items():
            step.dead.append(name)


def plan(model: files.Source, max_bytes: int = MAX_BYTES) -> Plan:
    """The model read and checked, its constants computed, its weights packed."""
    proto, folder = files.read(model)
    checks.verify(proto)
    graph, version = proto.graph, checks.opset(proto)
    constants: Values = {
        t.name: files.array(f"fastrnn.onnx: initializer {t.name!r}", t, folder)
        for t in graph.initializer
    }
    made = Plan(
        {v.name: _declared(v) for v in graph.input if v.name not in constants},
        [value.name for value in graph.output],
        constants,
    )
    budget = Budget(max_bytes)
    by_shape: set[str] = set()
    for node in graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = _constant(node)
            continue
        recurrent = node.op_type in attributes.OPERATORS
        operation: Operation = Recurrent(node, constants) if recurrent else Glue(node, version)
        step = Step(checks.where(node), operation, list(node.input), list(node.output))
        names = {name for name in node.input if name}
        if not recurrent and names <= constants.keys():
            run_quietly([step], constants, budget)
        elif not recurrent and (
            names <= constants.keys() | by_shape
            or (node.op_type in ("Shape", "Size") and names <= made.inputs.keys())
        ):
            by_shape |= set(node.output)
            made.shaped.append(step)
        else:
            made.steps.append(step)
    _protect(constants)
    return made


class Model:
    """A model, checked and made ready: ``run`` it many times.

    ``inputs``: dtype and declared shape of each input, with None where any size is right;
    ``outputs``: the names of the results. ``max_bytes``: of all intermediate results at a time.
    """

    def __init__(self, model: files.Source, *, max_bytes: int = MAX_BYTES) -> None:
        self._plan = plan(model, max_bytes)
        self._plan.let_go_of_packed_weights()
        self._plan.mark_the_dead()
        self.inputs, self.outputs = self._plan.inputs, self._plan.outputs
        self._max_bytes = max_bytes
        self._of_shapes: tuple[Any, Values, int] = (None, {}, 0)

    def run(self, feeds: Mapping[str, npt.ArrayLike]) -> dict[str, Array]:
        """The outputs by name. Raises ValueError or TypeError for feeds that do not fit."""
        given = self._checked(feeds)
        key = tuple(array.shape for array in given.values())
        known, shaped, used = self._of_shapes
        if key != known:
            budget, values = Budget(self._max_bytes), {**self._plan.constants, **given}
            run_quietly(self._plan.shaped, values, budget)
            names = {name for step in self._plan.shaped for name in step.outputs if name}
            shaped, used = {name: values[name] for name in names}, budget.used
            _protect(shaped)
            self._of_shapes = key, shaped, used
        values = {**self._plan.constants, **shaped, **given}
        run_quietly(self._plan.steps, values, Budget(self._max_bytes, used))
        return {name: values[name] for name in self.outputs}

    def _checked(self, feeds: Mapping[str, npt.ArrayLike]) -> dict[str, Array]:
        if unknown := [name for name in feeds if name not in self.inputs]:
            raise ValueError(
                f"fastrnn.onnx: {', '.join(unknown)} is no input of the model; it has "
                f"{', '.join(self.inputs)}"
            )
        given = {}
        for name, (dtype, shape) in self.inputs.items():
            if name not in feeds:
                raise ValueError(f"fastrnn.onnx: input {name!r} is missing")
            array = np.asarray(feeds[name])
            if array.dtype != dtype:
                raise TypeError(f"fastrnn.onnx: input {name!r} must be {dtype}, got {array.dtype}")
            if shape is not None and (
                len(shape) != array.ndim
                or any(n not in (None, m) for n, m in zip(shape, array.shape, strict=True))
            ):
                wanted = ", ".join("any" if n is None else str(n) for n in shape)
                raise ValueError(
                    f"fastrnn.onnx: input {name!r} must be ({wanted}), got shape {array.shape}"
                )
            given[name] = array
        return given


def prepare(model: files.Source, *, max_bytes: int = MAX_BYTES) -> Model:
    """A model (onnx.ModelProto, bytes or a path) made ready to run many times.

    Raises ValueError for a file that is no valid model, and for one that cannot be run: the message
    names the node, the attribute or the operator and what is supported.
    """
    return Model(model, max_bytes=max_bytes)


def run(
    model: files.Source, feeds: Mapping[str, npt.ArrayLike], *, max_bytes: int = MAX_BYTES
) -> dict[str, Array]:
    """The model's outputs by name, of its inputs by name. :func:`prepare` is for several runs."""
    return prepare(model, max_bytes=max_bytes).run(feeds)


def run_quietly(steps: Sequence[Step], values: Values, budget: Budget) -> None:
    with np.errstate(all="ignore"):  # IEEE arithmetic
        for step in steps:
            step.run(values, budget)


def _protect(values: Values) -> None:
    """Make read-only what is kept for many runs: it may be an output, or a part of one."""
    for name, value in values.items():
        values[name] = value.view()
        values[name].flags.writeable = False


def _declared(value: onnx.ValueInfoProto) -> Declared:
    of = value.type.tensor_type
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(of.elem_type))
    except KeyError:
        raise ValueError(f"fastrnn.onnx: input {value.name!r} has no known data type") from None
    if not of.HasField("shape"):
        return dtype, None
    shape = (n.dim_value if n.HasField("dim_value") else None for n in of.shape.dim)
    return dtype, tuple(shape)


def _constant(node: onnx.NodeProto) -> Array:
    where = checks.where(node)
    if len(node.attribute) != 1:
        raise ValueError(f"{where}: it must have one attribute, got {len(node.attribute)}")
    (attribute,) = node.attribute
    if attribute.name == "value":
        return files.array(where, attribute.t)
    kinds: dict[str, Any] = {"value_int": np.int64, "value_ints": np.int64}
    kinds |= {"value_float": np.float32, "value_floats": np.float32}
    if attribute.name not in kinds:
        raise ValueError(
            f"{where}: attribute {attribute.name!r} is not supported; supported are value, "
            f"{', '.join(kinds)}"
        )
    return np.array(onnx.helper.get_attribute_value(attribute), kinds[attribute.name])
