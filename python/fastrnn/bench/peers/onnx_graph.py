"""The layer as an ONNX model: one LSTM, GRU or RNN node a level, its weights as constants so that a
runtime may pack them.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from ..cases import GATES
from ..problem import Array, Problem

# ONNX's gates, as places in torch's order: i o f c of i f g o, z r h of r z n.
_GATE_ORDER = {"rnn": [0], "gru": [1, 0, 2], "lstm": [0, 3, 1, 2]}


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

        def stacked(kind: str, ends: list[str] = ends) -> Array:
            return np.stack([_reordered(problem.cell, problem.parameters[kind + e]) for e in ends])

        weights = [
            constant(f"W{layer}", stacked("weight_ih")),
            constant(f"R{layer}", stacked("weight_hh")),
            constant(f"B{layer}", np.concatenate([stacked("bias_ih"), stacked("bias_hh")], 1)),
        ]
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


def _reordered(cell: str, value: Array) -> Array:
    gates = GATES[cell]
    return value.reshape(gates, -1, *value.shape[1:])[_GATE_ORDER[cell]].reshape(value.shape)
