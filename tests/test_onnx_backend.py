"""ONNX's own node cases of LSTM, GRU and RNN, by its own runner (onnx.backend.test)."""

from __future__ import annotations

import unittest
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="ONNX's own cases")

import onnx
from onnx.backend.test import runner
from onnx.backend.test.case import node
from onnx.backend.test.case.node import gru, lstm, rnn  # noqa: F401, which makes their cases alone

from fastrnn.onnx import Backend


def of_the_recurrent_operators() -> type[unittest.TestCase]:
    """The runner's class of node tests; it makes those of all operators, in 20 seconds, if let."""
    patch = pytest.MonkeyPatch()
    patch.setattr(runner, "load_model_tests", lambda kind: node._NodeTestCases * (kind == "node"))
    made: type[unittest.TestCase] = runner.Runner(Backend, __name__).test_cases[
        "OnnxBackendNodeModelTest"
    ]
    patch.undo()
    for name in [name for name in vars(made) if name.endswith("_cuda")]:
        delattr(made, name)
    return made


OnnxBackendNodeModelTest = of_the_recurrent_operators()


def test_there_are_eighteen_cases() -> None:
    names = [name for name in vars(OnnxBackendNodeModelTest) if name.startswith("test_")]
    assert len(names) == 18
    assert {name.split("_")[1] for name in names} == {"lstm", "gru", "rnn", "simple"}


def relu_node() -> Any:
    return onnx.helper.make_node("Relu", ["x"], ["y"])


def test_a_node_runs_alone() -> None:
    (y,) = Backend.run_node(relu_node(), [np.array([-1.0, 2.0], np.float32)], opset_version=14)
    assert y.tolist() == [0.0, 2.0]


def test_inputs_come_in_order_or_by_name() -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2])
    graph = onnx.helper.make_graph([relu_node()], "relu", [value], [result])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)])
    x = np.array([-1.0, 2.0], np.float32)
    assert Backend.is_compatible(model)
    prepared = Backend.prepare(model)
    for inputs in ([x], {"x": x}, x):
        assert prepared.run(inputs)[0].tolist() == [0.0, 2.0]
    with pytest.raises(ValueError, match=r"has 1 inputs \(x\), got 2"):
        prepared.run([x, x])
    with pytest.raises(ValueError, match="device must be 'CPU', got 'CUDA:1'"):
        Backend.prepare(model, "CUDA:1")
    model.graph.node[0].op_type = "Conv"
    assert not Backend.is_compatible(model)
