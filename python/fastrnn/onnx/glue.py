"""The operators that stand around the recurrent ones: computed by ONNX's reference implementation,
in NumPy, after a look at the size of what would come out.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx.reference.op_run import OpRun
from onnx.reference.ops import load_op

Array = npt.NDArray[Any]
Run = Callable[..., tuple[Array, ...]]

_BROADCASTING = (
    *("Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max"),
    *("Mean", "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor"),
)
# what comes out is no larger than what goes in, but for the size of an element
_MODEST = (
    *("Abs", "ArgMax", "ArgMin", "BatchNormalization", "Cast", "Ceil", "Clip", "Constant"),
    *("CumSum", "Dropout", "Elu", "Erf", "Exp", "Flatten", "Floor", "HardSigmoid", "Identity"),
    *("LayerNormalization", "LeakyRelu", "Log", "LogSoftmax", "Neg", "Not", "Reciprocal"),
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
    *("ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape"),
    *("ReverseSequence", "Round", "ScatterElements", "ScatterND", "Shape", "Sigmoid", "Sign"),
    *("Size", "Slice", "Softmax", "Softplus", "Softsign", "Split", "Sqrt", "Squeeze", "Tanh"),
    *("ThresholdedRelu", "TopK", "Transpose", "Trilu", "Unsqueeze"),
)


def _broadcast(attributes: Any, *arrays: Array) -> int:
    return math.prod(np.broadcast_shapes(*(a.shape for a in arrays)))


def _expand(attributes: Any, data: Array, shape: Array) -> int:
    return math.prod(np.broadcast_shapes(data.shape, tuple(shape.tolist())))


def _matmul(attributes: Any, a: Array, b: Array) -> int:
    rows, columns = a.shape[-2:-1], b.shape[-1:] if b.ndim > 1 else ()
    return math.prod((*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), *rows, *columns))


def _gemm(attributes: Any, a: Array, b: Array, *c: Array) -> int:
    return int(a.shape[attributes.transA or 0] * b.shape[1 - (attributes.transB or 0)])


def _gather(attributes: Any, data: Array, indices: Array) -> int:
    return int(data.size // max(data.shape[attributes.axis], 1) * indices.size)


def _gather_nd(attributes: Any, data: Array, indices: Array) -> int:
    inner = data.shape[(attributes.batch_dims or 0) + indices.shape[-1] :]
    return math.prod(indices.shape[:-1]) * math.prod(inner)


def _pad(attributes: Any, data: Array, pads: Array | None = None, *more: Any) -> int:
    added = sum(abs(int(n)) for n in (attributes.pads if pads is None else pads))
    return math.prod(extent + added for extent in data.shape)


def _range(attributes: Any, start: Array, limit: Array, delta: Array) -> int:
    count = float((limit.item() - start.item()) / delta.item())
    return max(0, math.ceil(count))


def _product(attributes: Any, shape: Array, *more: Any) -> int:
    return math.prod(abs(int(n)) for n in shape.ravel())


# of those that can make much out of little: elements of the result, from the inputs
_SIZES: dict[str, Callable[..., int]] = dict.fromkeys(_BROADCASTING, _broadcast) | {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "GatherElements": lambda _, data, indices: indices.size,
    "Concat": lambda _, *arrays: sum(a.size for a in arrays),
    "ConstantOfShape": _product,
    "Expand": _expand,
    "OneHot": lambda _, indices, depth, values: indices.size * int(depth.item()),
    "Pad": _pad,
    "Range": _range,
    "Tile": lambda _, data, repeats: data.size * _product(_, repeats),
}
GLUE = frozenset([*_MODEST, *_SIZES])


class Glue:
    """One node."""

    def __init__(self, node: onnx.NodeProto, version: int) -> None:
        # until opset 14 the reference computes it as in training
        known = max(version, 14) if node.op_type == "BatchNormalization" else version
        made = load_op("", node.op_type, known)
        parameters = {"log": _silent, "opsets": {"": version}, "verbose": 0, "new_ops": None}
        self._operator = made(node, parameters)
        self._flattens = version < 13 and node.op_type in ("Softmax", "LogSoftmax")
        if self._flattens:
            given = [a.i for a in node.attribute if a.name == "axis"]
            self._axis, self._operator.axis = (given or [1])[0], 1
        self._size = _SIZES.get(node.op_type)
        self._run = self._operator.run
        if made.run is OpRun.run:  # which looks up the attributes at each call
            names = self._operator.attributes_names_
            attributes = {name: getattr(self._operator, name) for name in names}
            self._run = functools.partial(self._operator._run, **attributes)

    def size(self, inputs: Sequence[Any]) -> int:
        """Bytes of the result at most, if this is an operator whose result may be large."""
        if self._size is None:
            return 0
        elements = self._size(self._operator, *inputs)
        return elements * max((a.dtype.itemsize for a in inputs if a is not None), default=8)

    def run(self, inputs: Sequence[Any]) -> tuple[Array, ...]:
        if self._flattens:  # until opset 13, over all axes from this one on
            (x,) = inputs
            shape = math.prod(x.shape[: self._axis]), math.prod(x.shape[self._axis :])
            (y,) = self._run(x.reshape(shape))
            return (y.reshape(x.shape),)
        return tuple(map(np.asarray, self._run(*inputs)))


def _silent(pattern: str, *values: Any) -> None:
    """The reference evaluator's log."""
