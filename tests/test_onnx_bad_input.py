"""Models that nobody has vouched for: a clear error before anything runs, and never a crash or an
allocation of a size that the file names.
"""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("onnx", reason="ONNX models")

import onnx
from onnx import TensorProto, helper, numpy_helper

import fastrnn.onnx

T, B, I, H = 3, 2, 4, 5
FEEDS = {"x": np.ones((T, B, I), np.float32)}


def lstm_model() -> onnx.ModelProto:
    """Zero states by Shape and ConstantOfShape, LSTM, Transpose, Reshape, Gemm."""
    rng = np.random.default_rng(0)
    node, shapes = helper.make_node, {"W": (1, 4 * H, I), "R": (1, 4 * H, H), "B": (1, 8 * H)}
    constants = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    constants |= {"one": np.array([1]), "H": np.array([H]), "flat": np.array([0, 0, -1])}
    nodes = [
        node("Shape", ["x"], ["shape"], "shape"),
        node("Gather", ["shape", "one"], ["batch"], "batch"),
        node("Concat", ["one", "batch", "H"], ["state"], "state", axis=0),
        node("ConstantOfShape", ["state"], ["h0"], "zeros"),
        node("LSTM", ["x", "W", "R", "B", "", "h0"], ["Y", "Y_h"], "lstm", hidden_size=H),
        node("Transpose", ["Y"], ["Z"], "transpose", perm=[0, 2, 1, 3]),
        node("Reshape", ["Z", "flat"], ["y"], "reshape"),
    ]
    declare = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "graph",
        [declare("x", TensorProto.FLOAT, ["T", "B", I])],
        [declare(name, TensorProto.FLOAT, None) for name in ("y", "Y_h")],
        [numpy_helper.from_array(a, n) for n, a in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def node_named(model: onnx.ModelProto, name: str) -> Any:
    return next(node for node in model.graph.node if node.name == name)


def constant(model: onnx.ModelProto, name: str) -> Any:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def setting(name: str, **attributes: Any) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        made = [helper.make_attribute(k, v) for k, v in attributes.items()]
        node_named(model, name).attribute.extend(made)

    return change


def opset(version: int) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        model.opset_import[0].version = version

    return change


def operator(domain: str, op: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        node = node_named(model, "transpose")
        node.domain, node.op_type = domain, op

    return change


def replaced(name: str, array: Any) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        constant(model, name).CopyFrom(numpy_helper.from_array(array, name))

    return change


def stating(name: str, *dims: int) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        del constant(model, name).dims[:]
        constant(model, name).dims.extend(dims)

    return change


def in_a_circle(model: onnx.ModelProto) -> None:
    node_named(model, "transpose").input[0] = "y"


def twice(model: onnx.ModelProto) -> None:
    node_named(model, "reshape").output[0] = "Z"


def no_such_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = "nothing"


def no_outputs(model: onnx.ModelProto) -> None:
    del model.graph.output[:]


def own_function(model: onnx.ModelProto) -> None:
    imports = [helper.make_opsetid("", 17)]
    body = [helper.make_node("Relu", ["a"], ["b"])]
    model.functions.append(helper.make_function("own", "Half", ["a"], ["b"], body, imports))


def sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add()


def a_sequence(model: onnx.ModelProto) -> None:
    value = helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None)
    model.graph.input[0].CopyFrom(value)


def of_strings(model: onnx.ModelProto) -> None:
    constant(model, "B").data_type = TensorProto.STRING


def external(location: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        tensor = constant(model, "W")
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)

    return change


def external_in_an_attribute(model: onnx.ModelProto) -> None:
    value = TensorProto(data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    value.external_data.add(key="location", value="/etc/passwd")
    setting("zeros", value=value)(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (opset(6), "opset must be one of 7 to .*, got 6"),
        (opset(999), "opset must be one of 7 to .*, got 999"),
        (lambda model: model.ClearField("opset_import"), "opset must be one of .*, got none"),
        (
            lambda model: (opset(11)(model), setting("lstm", layout=0)(model)),
            r"node 'lstm' \(LSTM\): attribute 'layout' is not supported in opset 11; it has acti",
        ),
        (setting("lstm", cell=1), r"node 'lstm' \(LSTM\): attribute 'cell' .*; it has activation_"),
        (setting("lstm", direction="up"), r"node 'lstm' \(LSTM\): attribute 'direction' must be"),
        (setting("lstm", activations=["A"] * 3), r"'lstm' .* 'A' is not supported; there are sigm"),
        (setting("reshape", allow=1), r"'reshape' \(Reshape\): attribute 'allow' .* it has allowz"),
        (
            operator("", "Conv"),
            r"'transpose' \(Conv\): the operator Conv is .* supported are Abs, ",
        ),
        (operator("", "If"), r"'transpose' \(If\): the operator If is not supported"),
        (operator("own", "Conv"), r"the operator own.Conv is not supported; supported are Abs,"),
        (
            operator("", "Add"),
            r"'transpose' \(Add\): attribute 'perm' is not supported .* it has none",
        ),
        (in_a_circle, "not a valid model: .*topologically sorted"),
        (twice, "not a valid model: .*single static assign"),
        (no_such_output, "not a valid model: Graph output 'nothing'"),
        (no_outputs, "the model has no output"),
        (own_function, r"functions of a model \(Half\) are not supported: inline them"),
        (sparse, "sparse initializers are not supported"),
        (a_sequence, "input 'x' must be a tensor"),
        (of_strings, "initializer 'B': data type STRING is not supported"),
        (
            stating("W", 1, 4 * H, 2**40),
            r"initializer 'W': its data do not fit its shape \[1, 20, ",
        ),
        (stating("W", -1, 4 * H, I), "initializer 'W': a shape must not be negative, got"),
        (stating("W", *[2**62] * 4), "initializer 'W': its data do not fit its shape"),
        (
            replaced("R", np.zeros((1, 16, 4), np.float32)),
            r"'lstm' \(LSTM\): attribute 'hidden_size' is 5, but R has shape \(1, 16, 4\)",
        ),
        (
            replaced("W", np.zeros((1, 16, 4), np.float32)),
            r"'lstm' .*\(1, 20, 4\), as R of shape \(1, 20, 5\) says; got shape \(1, 16, 4\)",
        ),
        (
            replaced("W", np.zeros((1, 20, 4))),
            r"'lstm' \(LSTM\): R must be float64 as W is, got fl",
        ),
        (external("weights"), "initializer 'W': its data are in another file, 'weights'"),
        (external_in_an_attribute, "'zeros' .*: its data are in another file, '/etc/passwd'"),
    ],
)
def test_what_is_wrong_with_a_model_is_said_before_it_runs(change: Any, message: str) -> None:
    model = lstm_model()
    change(model)
    with pytest.raises((ValueError, TypeError), match=f"^fastrnn.onnx: .*{message}"):
        fastrnn.onnx.prepare(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replaced("H", np.array([2**40])), r"'zeros' \(ConstantOfShape\): its result of .* bytes"),
        (replaced("H", np.array([-5])), r"'zeros' \(ConstantOfShape\): "),
        (
            replaced("H", np.array([6])),
            r"'lstm' \(LSTM\): initial_h must be .*\(1, 2, 5\), got .*6",
        ),
        (replaced("one", np.array([7])), r"'batch' \(Gather\): .*out of bounds"),
        (replaced("flat", np.array([7, 7, 7])), r"'reshape' \(Reshape\): .*reshape"),
    ],
)
def test_what_the_numbers_of_a_model_make_impossible_names_the_node(
    change: Any, message: str
) -> None:
    model = lstm_model()
    change(model)
    with pytest.raises(ValueError, match=f"^fastrnn.onnx: node {message}"):
        fastrnn.onnx.run(model, FEEDS)


@pytest.mark.parametrize(
    ("feeds", "error", "message"),
    [
        ({}, ValueError, "input 'x' is missing"),
        ({**FEEDS, "h": FEEDS["x"]}, ValueError, "h is no input of the model; it has x"),
        ({"x": FEEDS["x"][0]}, ValueError, r"'x' must be \(any, any, 4\), got shape \(2, 4\)"),
        ({"x": np.ones((3, 2, 5), np.float32)}, ValueError, r"\(any, any, 4\), got .*\(3, 2, 5\)"),
        ({"x": np.ones((3, 2, 4))}, TypeError, "'x' must be float32, got float64"),
    ],
)
def test_feeds_that_do_not_fit(feeds: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^fastrnn.onnx: .*{message}"):
        fastrnn.onnx.run(lstm_model(), feeds)


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "", "link", "folder", "short"])
def test_external_data_come_from_a_file_in_the_model_s_folder_alone(
    location: str, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    (folder / "folder").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(bytes(4096))
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "short").write_bytes(bytes(99))
    model = lstm_model()
    external(location)(model)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    message = "320 bytes at 0 are wanted" if location == "short" else "must be a file in the folder"
    with pytest.raises(ValueError, match=f"initializer 'W': .*{message}"):
        fastrnn.onnx.prepare(folder / "model.onnx")


@pytest.mark.parametrize(
    ("offset", "length"), [("-9", "320"), ("0", "2"), ("x", "320"), (str(2**70), "320")]
)
def test_places_in_external_data_are_checked(offset: str, length: str, tmp_path: Path) -> None:
    model = lstm_model()
    external("data")(model)
    constant(model, "W").external_data.add(key="offset", value=offset)
    constant(model, "W").external_data.add(key="length", value=length)
    (tmp_path / "data").write_bytes(bytes(320))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="initializer 'W': "):
        fastrnn.onnx.prepare(tmp_path / "model.onnx")


@pytest.mark.parametrize("data", [b"", b"\0", b"no model", bytes(100), b"\x08\x08"])
def test_bytes_that_are_no_model(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the bytes are not an ONNX model"):
        fastrnn.onnx.prepare(data)
    (tmp_path / "x.onnx").write_bytes(data)
    with pytest.raises(ValueError, match=r"x\.onnx' are not an ONNX model"):
        fastrnn.onnx.prepare(tmp_path / "x.onnx")


def test_what_is_no_model_at_all(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"must be an onnx\.ModelProto, bytes or a path, got int"):
        fastrnn.onnx.prepare(7)
    with pytest.raises(FileNotFoundError):
        fastrnn.onnx.prepare(tmp_path / "none.onnx")


WHOLE = lstm_model().SerializeToString()
_WEIGHTS = [constant(lstm_model(), name).raw_data for name in "WRB"]
_STRUCTURE = sorted(
    set(range(len(WHOLE))) - {WHOLE.index(data) + n for data in _WEIGHTS for n in range(len(data))}
)


def run_or_refuse(data: bytes) -> None:
    """Runs, or a ValueError or TypeError; in little memory."""
    with contextlib.suppress(ValueError, TypeError):
        fastrnn.onnx.run(data, FEEDS, max_bytes=2**20)


def test_every_truncated_file_is_refused_or_runs() -> None:
    for end in range(len(WHOLE)):
        run_or_refuse(WHOLE[:end])


@settings(max_examples=400)
@given(st.lists(st.tuples(st.sampled_from(_STRUCTURE), st.integers(0, 255)), max_size=5))
def test_every_damaged_file_is_refused_or_runs(changes: list[tuple[int, int]]) -> None:
    data = bytearray(WHOLE)
    for place, value in changes:
        data[place] = value
    run_or_refuse(bytes(data))


def test_refusing_takes_no_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, dims in (("W", (1, 20, 2**31)), ("R", (2**33, 20, 5)), ("B", (1, 2**34))):
        model = lstm_model()
        stating(name, *dims)(model)
        with pytest.raises(ValueError, match="do not fit"):
            fastrnn.onnx.prepare(model)
    for size in (2**30, 2**45, 2**62):
        model = lstm_model()
        replaced("H", np.array([size]))(model)
        with pytest.raises(ValueError, match="its result of"):
            fastrnn.onnx.run(model, FEEDS)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 100_000  # KiB
