"""The layer as an ONNX model: one LSTM, GRU or RNN node a level, its weights as constants so that a
runtime may pack them.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from ..problem import Array, Problem

_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def inputs(problem: Problem) -> dict[str, Array]:
    """What the model is fed with, by name."""
    feeds = {"x": problem.x}
    if problem.lengths is not None:
        feeds["lengths"] = problem.lengths.astype(np.int32)
    for layer in range(problem.case.layers):
        for name, part in zip("hc", problem.state, strict=False):
            feeds[f"{name}{layer}"] = part[layer : layer + 1]
    return feeds


def model(problem: Problem) -> bytes:
    """Input x (T, B, I), output y (T, B, D*H); for a step (1, B, H)."""
    onnx: Any = import_module("onnx")
    translation: Any = import_module("fastrnn.onnx.translation")
    make, case = onnx.helper, problem.case
    nodes, constants = [], []

    def constant(name: str, value: Array) -> str:
        constants.append(onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    shape = constant("shape", np.array([0, 0, -1]))  # 0: as it was
    below = "x"
    feeds = inputs(problem)
    for layer in range(case.layers):
        ends = [f"_l{layer}", f"_l{layer}_reverse"][: case.directions]

        rows = [{name: problem.parameters[name + end] for name in _NAMES} for end in ends]
        arrays = translation.write(problem.cell, rows)
        weights = [constant(f"{name}{layer}", arrays[name]) for name in "WRB"]
        optional = ["lengths", f"h{layer}", f"c{layer}"][: 3 if problem.cell == "lstm" else 2]
        attributes: dict[str, Any] = {"hidden_size": case.hidden_size}
        if case.bidirectional:
            attributes["direction"] = "bidirectional"
        if problem.cell == "gru":
            attributes["linear_before_reset"] = 1
        given = [name if name in feeds else "" for name in optional]
        last = layer == case.layers - 1
        above = "y" if last else f"y{layer}"
        nodes += [
            make.make_node(
                problem.cell.upper(), [below, *weights, *given], [f"Y{layer}"], **attributes
            ),  # (T, D, B, H)
            make.make_node("Transpose", [f"Y{layer}"], [f"Z{layer}"], perm=[0, 2, 1, 3]),
            make.make_node("Reshape", [f"Z{layer}", shape], [above]),
        ]
        below = above
    dtype = make.np_dtype_to_tensor_dtype
    declared = [make.make_tensor_value_info(n, dtype(a.dtype), a.shape) for n, a in feeds.items()]
    y_shape = case.steps, case.batch, case.directions * case.hidden_size
    output = make.make_tensor_value_info("y", dtype(problem.x.dtype), y_shape)
    graph = make.make_graph(nodes, problem.cell, declared, [output], constants)
    built = make.make_model(graph, opset_imports=[make.make_opsetid("", 14)], ir_version=8)
    return bytes(built.SerializeToString())
