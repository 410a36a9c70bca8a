"""fastrnn.onnx.run: each operator that may stand around the recurrent ones against ONNX Runtime, in
each of its versions, and whole models.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="ONNX models")
pytest.importorskip("onnxruntime", reason="compares with ONNX Runtime")

import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx_models import by_onnxruntime
from tolerances import assert_close

import fastrnn.onnx
from fastrnn.onnx.glue import GLUE

OPSETS = (7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 18, 20, 21, 22)
_rng = np.random.default_rng(1)


def f(*shape: int) -> Any:
    return _rng.standard_normal(shape).astype(np.float32)


def i(*values: Any) -> Any:
    return np.array(values, np.int64)


def b(*values: bool) -> Any:
    return np.array(values)


A, ROW, CUBE, ONE = f(3, 4), f(4), f(2, 3, 4), np.float32(0.5)
FLAGS, OTHER = A > 0, f(3, 4) > 0
# operator, first and last opset, inputs, attributes
CASES: list[tuple[str, int, int, list[Any], dict[str, Any]]] = [
    *((op, 7, 22, [A, ROW], {}) for op in ("Add", "Sub", "Mul", "Div")),
    *((op, 8, 22, [A, ROW, A], {}) for op in ("Max", "Min", "Mean", "Sum")),
    ("Pow", 12, 22, [abs(A), ROW], {}),
    ("PRelu", 9, 22, [A, ROW], {}),
    ("Mod", 10, 22, [i(7, -7, 5), i(3, 3, -4)], {}),
    ("Mod", 10, 22, [A, ROW], {"fmod": 1}),
    *((op, 7, 22, [FLAGS, OTHER], {}) for op in ("And", "Or", "Xor")),
    *((op, 9, 22, [A, ROW], {}) for op in ("Less", "Greater")),
    *((op, 12, 22, [A, ROW], {}) for op in ("LessOrEqual", "GreaterOrEqual")),
    ("Equal", 7, 22, [i(1, 2), i(1, 3)], {}),
    ("Where", 9, 22, [FLAGS, A, ROW], {}),
    ("Not", 7, 22, [FLAGS], {}),
    *((op, 7, 22, [A], {}) for op in ("Abs", "Neg", "Ceil", "Floor", "Exp", "Identity", "Relu")),
    *((op, 7, 22, [A], {}) for op in ("Sigmoid", "Tanh", "Softplus", "Softsign", "Reciprocal")),
    *((op, 7, 22, [abs(A)], {}) for op in ("Log", "Sqrt")),
    *((op, 9, 22, [A], {}) for op in ("Erf", "Sign")),
    ("Round", 11, 22, [A * 4], {}),
    ("Elu", 7, 22, [A], {"alpha": 0.5}),
    ("LeakyRelu", 7, 22, [A], {"alpha": 0.5}),
    ("HardSigmoid", 7, 22, [A], {"alpha": 0.5}),
    ("ThresholdedRelu", 10, 22, [A], {"alpha": 0.5}),
    ("Sigmoid", 7, 22, [A * 1000], {}),
    ("Clip", 7, 10, [A], {"min": -0.5, "max": 0.5}),
    ("Clip", 11, 22, [A, -ONE, ONE], {}),
    ("Clip", 11, 22, [A, None, ONE], {}),
    ("Cast", 9, 22, [A * 9], {"to": TensorProto.INT32}),
    ("Cast", 7, 22, [A], {"to": TensorProto.FLOAT16}),
    ("Dropout", 7, 22, [A], {}),
    ("Flatten", 9, 22, [CUBE], {"axis": 2}),
    ("Flatten", 9, 22, [CUBE], {}),
    ("Reshape", 7, 22, [CUBE, i(0, -1)], {}),
    ("Transpose", 7, 22, [CUBE], {"perm": [2, 0, 1]}),
    ("Transpose", 7, 22, [CUBE], {}),
    ("Shape", 7, 22, [CUBE], {}),
    ("Shape", 15, 22, [CUBE], {"start": 1, "end": -1}),
    ("Size", 7, 22, [CUBE], {}),
    ("Squeeze", 7, 12, [CUBE[:, :1]], {"axes": [1]}),
    ("Squeeze", 13, 22, [CUBE[:, :1], i(1)], {}),
    ("Unsqueeze", 7, 12, [A], {"axes": [0, 2]}),
    ("Unsqueeze", 13, 22, [A, i(0, -1)], {}),
    ("Concat", 7, 22, [A, A, A], {"axis": 1}),
    ("Split", 7, 12, [CUBE], {"axis": 2, "split": [1, 3]}),
    ("Split", 13, 17, [CUBE, i(1, 3)], {"axis": -1}),
    ("Split", 18, 22, [CUBE], {"axis": 2, "num_outputs": 2}),
    ("Slice", 7, 9, [CUBE], {"starts": [1, -2], "ends": [3, 9], "axes": [1, 2]}),
    ("Slice", 10, 22, [CUBE, i(1, -2), i(3, 9), i(1, 2)], {}),
    ("Slice", 10, 22, [CUBE, i(9), i(-9), i(2), i(-2)], {}),
    ("Gather", 7, 22, [CUBE, i(1, 0)], {"axis": 1}),
    ("Gather", 11, 22, [CUBE, np.array(-1)], {}),
    ("GatherElements", 11, 22, [A, i([0, 1], [2, 0], [1, 1])], {"axis": 1}),
    ("GatherND", 12, 22, [CUBE, i([0, 1], [1, 2])], {}),
    ("GatherND", 12, 22, [CUBE, i([1], [2])], {"batch_dims": 1}),
    ("ScatterElements", 11, 22, [A, i([0, 1]), f(1, 2)], {"axis": 1}),
    ("ScatterND", 11, 22, [A, i([2], [0]), f(2, 4)], {}),
    ("ConstantOfShape", 9, 22, [i(2, 3)], {}),
    ("ConstantOfShape", 9, 22, [i(2)], {"value": numpy_helper.from_array(i(7))}),
    ("Expand", 8, 22, [ROW, i(3, 1)], {}),
    ("Tile", 7, 22, [A, i(2, 3)], {}),
    ("Range", 11, 22, [np.array(1), np.array(9), np.array(3)], {}),
    ("Pad", 7, 10, [A], {"pads": [1, 0, 0, 2], "value": 0.5}),
    ("Pad", 11, 22, [A, i(1, 0, 0, 2), ONE], {}),
    ("Pad", 11, 22, [A, i(1, 0, 0, 2)], {"mode": "reflect"}),
    ("OneHot", 11, 22, [i(0, 2, -1), np.array(4), f(2)], {"axis": -1}),
    ("MatMul", 7, 22, [CUBE, f(4, 5)], {}),
    ("MatMul", 7, 22, [ROW, f(4, 5)], {}),
    ("MatMul", 7, 22, [f(5, 1, 3, 4), f(2, 4, 2)], {}),
    ("Gemm", 7, 22, [A, f(5, 4), f(5)], {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("Gemm", 11, 22, [A, f(3, 5)], {"transA": 1}),
    *((op, 7, 22, [CUBE], {"axis": 1}) for op in ("Softmax", "LogSoftmax")),
    *((op, 7, 22, [CUBE], {}) for op in ("Softmax", "LogSoftmax")),
    *((op, 13, 22, [CUBE], {"axis": 0}) for op in ("Softmax", "LogSoftmax")),
    *((op, 12, 22, [A], {"axis": 1, "keepdims": 0}) for op in ("ArgMax", "ArgMin")),
    ("CumSum", 11, 22, [A, np.array(1)], {"reverse": 1}),
    ("TopK", 7, 9, [A], {"k": 2}),
    ("TopK", 11, 22, [A, i(2)], {"axis": 0, "largest": 0}),
    ("Trilu", 14, 22, [A, np.array(1)], {"upper": 0}),
    ("ReverseSequence", 10, 22, [A, i(1, 3, 2, 0) + 0], {"time_axis": 0, "batch_axis": 1}),
    ("BatchNormalization", 9, 22, [CUBE, f(3), f(3), f(3), abs(f(3))], {}),
    ("LayerNormalization", 17, 22, [CUBE, ROW, f(4)], {}),
]
for _name in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"):
    _until = 12 if _name == "Sum" else 17
    CASES += [
        (f"Reduce{_name}", 7, _until, [abs(CUBE)], {"axes": [1], "keepdims": 0}),
        (f"Reduce{_name}", _until + 1, 22, [abs(CUBE), i(0, -1)], {}),
        (f"Reduce{_name}", 7, 22, [abs(CUBE)], {}),
    ]


def of_one_node(
    op: str, opset: int, inputs: list[Any], attributes: dict[str, Any]
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    outputs = ["y", "y1"] if op in ("Split", "TopK") else ["y"]
    feeds = {f"x{n}": np.asarray(a) for n, a in enumerate(inputs) if a is not None}
    names = ["" if a is None else f"x{n}" for n, a in enumerate(inputs)]
    node = helper.make_node(op, names, outputs, name="node", **attributes)
    return model([node], feeds, outputs, opset), feeds


def model(
    nodes: list[Any],
    feeds: dict[str, Any],
    outputs: list[str],
    opset: int = 17,
    constants: dict[str, Any] | None = None,
) -> onnx.ModelProto:
    """Inputs of the feeds' types, of any size."""
    to_type = helper.np_dtype_to_tensor_dtype
    graph = helper.make_graph(
        nodes,
        "graph",
        [
            helper.make_tensor_value_info(n, to_type(a.dtype), [None] * a.ndim)
            for n, a in feeds.items()
        ],
        [helper.make_value_info(n, onnx.TypeProto()) for n in outputs],
        [numpy_helper.from_array(a, n) for n, a in (constants or {}).items()],
    )
    imports = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


@pytest.mark.parametrize("op", sorted({case[0] for case in CASES}))
def test_operator_gives_what_onnx_runtime_does_in_every_opset(op: str) -> None:
    for _, first, last, inputs, attributes in (case for case in CASES if case[0] == op):
        for opset in (v for v in OPSETS if first <= v <= last):
            proto, feeds = of_one_node(op, opset, inputs, attributes)
            theirs = by_onnxruntime(proto, feeds)
            ours = fastrnn.onnx.run(proto, feeds)
            assert list(ours) == list(theirs)
            for name, value in theirs.items():
                where = f"{op} {opset} {attributes}"
                assert ours[name].dtype == value.dtype, where
                assert_close(ours[name], value, "float32", "forward", name=where)


def test_there_is_a_case_of_every_operator() -> None:
    assert GLUE - {"Constant"} == {case[0] for case in CASES}


def weights(op: str, I: int, H: int, D: int = 1) -> dict[str, Any]:
    G = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    shapes = {"W": (D, G * H, I), "R": (D, G * H, H), "B": (D, 2 * G * H)}
    return {name: 0.5 * f(*shape) for name, shape in shapes.items()}


def as_tf2onnx_writes_it() -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Embedding, masked LSTM on (B, T), Dense with softmax: states by Shape, Slice, Concat and
    ConstantOfShape, lengths by a sum over the mask.
    """
    vocabulary, I, H, classes = 11, 4, 5, 3
    constants = {
        **weights("LSTM", I, H),
        "table": f(vocabulary, I),
        "zero": i(0),
        "one": i(1),
        "axis1": i(1),
        "H": i(H),
        "pad": np.array(0, np.int64),
        "dense_w": f(H, classes),
        "dense_b": f(classes),
    }
    node = helper.make_node
    nodes = [
        node("Gather", ["table", "tokens"], ["embedded"], "embed"),
        node("Equal", ["tokens", "pad"], ["is_pad"]),
        node("Not", ["is_pad"], ["is_token"]),
        node("Cast", ["is_token"], ["ones"], to=TensorProto.INT32),
        node("ReduceSum", ["ones", "axis1"], ["lengths"], keepdims=0),
        node("Transpose", ["embedded"], ["x"], perm=[1, 0, 2]),
        node("Shape", ["tokens"], ["shape"]),
        node("Slice", ["shape", "zero", "one"], ["batch"]),
        node("Concat", ["one", "batch", "H"], ["state_shape"], axis=0),
        node("ConstantOfShape", ["state_shape"], ["h0"]),
        node("LSTM", ["x", "W", "R", "B", "lengths", "h0", "h0"], ["Y", "", "Y_c"], hidden_size=H),
        node("Squeeze", ["Y", "axis1"], ["y"]),
        node("Transpose", ["y"], ["sequence"], perm=[1, 0, 2]),
        node("ReduceMax", ["sequence"], ["pooled"], axes=[1], keepdims=0),
        node("MatMul", ["pooled", "dense_w"], ["product"]),
        node("Add", ["product", "dense_b"], ["logits"]),
        node("Softmax", ["logits"], ["probabilities"]),
    ]
    feeds = {"tokens": i([1, 5, 2, 0], [3, 0, 0, 0], [7, 1, 10, 2])}
    return model(nodes, feeds, ["probabilities", "Y_c", "h0"], constants=constants), feeds


def test_a_model_as_tf2onnx_writes_it() -> None:
    proto, feeds = as_tf2onnx_writes_it()
    prepared = fastrnn.onnx.prepare(proto)
    for rows in (3, 2, 3, 1, 1):  # shapes that come again, and new ones
        part = {name: a[:rows] for name, a in feeds.items()}
        theirs, ours = by_onnxruntime(proto, part), prepared.run(part)
        assert list(ours) == ["probabilities", "Y_c", "h0"]
        for name, value in theirs.items():
            assert_close(ours[name], value, "float32", "forward", 4, name=name)


def test_a_result_that_is_kept_for_the_next_run_cannot_be_changed() -> None:
    proto, feeds = as_tf2onnx_writes_it()
    prepared = fastrnn.onnx.prepare(proto)
    zeros = prepared.run(feeds)["h0"]
    with pytest.raises(ValueError, match="read-only"):
        zeros += 1


def test_the_model_may_be_a_proto_bytes_or_a_file_with_its_data_beside_it(tmp_path: Path) -> None:
    proto, feeds = as_tf2onnx_writes_it()
    expected = fastrnn.onnx.run(proto, feeds)
    data = proto.SerializeToString()
    onnx.save(proto, tmp_path / "whole.onnx")
    location = {"save_as_external_data": True, "location": "data.bin", "size_threshold": 16}
    onnx.save(proto, tmp_path / "parts.onnx", **location)
    assert (tmp_path / "data.bin").stat().st_size > 500
    for source in (data, tmp_path / "whole.onnx", str(tmp_path / "parts.onnx")):
        for name, value in fastrnn.onnx.run(source, feeds).items():
            np.testing.assert_array_equal(value, expected[name])


def test_values_are_let_go_after_their_last_use() -> None:
    """64 results of 4 MiB, one after the other, in 16 MiB."""
    nodes = [helper.make_node("Neg", [f"x{n}"], [f"x{n + 1}"], f"n{n}") for n in range(64)]
    feeds = {"x0": np.ones(2**20, np.float32)}
    proto = model(nodes, feeds, ["x64"])
    assert fastrnn.onnx.run(proto, feeds, max_bytes=2**24)["x64"][0] == 1
    together = model(
        [*nodes, helper.make_node("Sum", [f"x{n}" for n in range(65)], ["y"])], feeds, ["y"]
    )
    with pytest.raises(ValueError, match=r"node 'n\d' \(Neg\): its result .*max_bytes = 16777216"):
        fastrnn.onnx.run(together, feeds, max_bytes=2**24)


def test_what_a_model_needs_and_gives_is_listed() -> None:
    prepared = fastrnn.onnx.prepare(as_tf2onnx_writes_it()[0])
    assert prepared.inputs == {"tokens": (np.dtype(np.int64), (None, None))}
    assert prepared.outputs == ["probabilities", "Y_c", "h0"]
