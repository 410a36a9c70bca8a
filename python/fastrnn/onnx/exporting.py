"""Layers written as ONNX models: one recurrent node a level, with what goes between them."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from fastrnn import stack
from fastrnn.atomic import write_atomically
from fastrnn.modules import GRU, LSTM, RNN, Recurrent
from fastrnn.reference.activations import FUNCTIONS
from fastrnn.reference.features import Features, settings

from .attributes import NUMBERS
from .checks import OLDEST
from .translation import write

Array = npt.NDArray[Any]

# options that change nothing in inference
_OF_TRAINING = {"recurrent_dropout", "weight_dropout", "initialiser", "forget_bias"}
_TORCH = {"LSTM": LSTM, "GRU": GRU, "RNN_TANH": RNN, "RNN_RELU": RNN}
_WRITTEN = (
    *("Relu", "Tanh", "Sigmoid", "Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh"),
    *("HardSigmoid", "Elu", "Softsign", "Softplus"),
)


def export(
    layer: Any,
    path: str | os.PathLike[str],
    *,
    layout: int = 0,
    opset: int = 17,
    lengths: bool = False,
    state: bool = False,
) -> None:
    """Write a layer (fastrnn.LSTM, GRU, RNN, or torch's of these names) as a model of inference.

    Inputs: x, as the layer takes it; with ``lengths`` also lengths (B,) int32; with ``state`` also
    h0, and c0 of the LSTM, (L * D, B, H). Outputs: y, h_n, and c_n of the LSTM, as the layer's.
    ``layout``: that of the recurrent nodes; ONNX Runtime has 0 alone, 1 needs opset 14. Numbers of
    activations and of the clip are rounded to float32, as ONNX has them.

    Raises ValueError for what the operators have not (a projection, layer normalisation, zoneout,
    a clip of c, another merge than concat), TypeError for another kind of object.
    """
    built = build(layer, layout, opset, lengths, state)
    write_atomically(path, built.SerializeToString())


def build(layer: Any, layout: int, opset: int, lengths: bool, state: bool) -> onnx.ModelProto:
    """The model that :func:`export` writes."""
    where = "fastrnn.onnx.export"
    layer = layer if isinstance(layer, Recurrent) else _from_torch(where, layer)
    newest, oldest = onnx.defs.onnx_opset_version(), 14 if layout else OLDEST
    if layout not in (0, 1):
        raise ValueError(f"{where}: layout must be 0 or 1, got {layout!r}")
    if not oldest <= opset <= newest:
        raise ValueError(
            f"{where}: opset must be in {oldest} to {newest} with layout {layout}, got {opset!r}"
        )
    if isinstance(layer.hidden_size, tuple):
        raise ValueError(f"{where}: the levels must be of one size, got {layer.hidden_size}")
    attributes = {"hidden_size": layer.hidden_size, **_attributes(where, layer)}
    if layout:
        attributes["layout"] = 1
    graph = _Graph(layer, bool(layout), attributes)
    graph.build(lengths, state)
    return graph.model(opset)


def _from_torch(where: str, module: Any) -> Recurrent[Any]:
    made = _TORCH.get(getattr(module, "mode", ""))
    if made is None or not hasattr(module, "state_dict"):
        name = type(module).__name__
        raise TypeError(f"{where}: wanted is a fastrnn.LSTM, GRU or RNN, or torch's, got {name}")
    parameters = {n: t.detach().cpu().numpy() for n, t in module.state_dict().items()}
    names = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "bidirectional")
    values = {name: getattr(module, name) for name in (*names, "proj_size")}
    if made is RNN:
        values["nonlinearity"] = module.nonlinearity
    if made is GRU:
        values["reset_after"] = getattr(module, "reset_after", True)
    if options := getattr(module, "_options", ""):  # of fastrnn.torch, beyond torch.nn's
        values |= json.loads(options)
    layer: Recurrent[Any] = made(**values, dtype=next(iter(parameters.values())).dtype, seed=0)
    layer.load_state_dict(parameters)
    return layer


def _attributes(where: str, layer: Recurrent[Any]) -> dict[str, Any]:
    """Those of every node but hidden_size and layout."""
    op = layer._kind.family.upper()
    configuration = layer.configuration()
    own = {name: value for name, value in configuration.items() if name in stack.DEFAULTS}
    supported = {"clip", "activations", "reverse"}
    supported |= {"peephole", "coupled"} if op == "LSTM" else set()
    if missing := [name for name in own if name not in supported | _OF_TRAINING]:
        raise ValueError(
            f"{where}: ONNX's {op} has no {', '.join(missing)}; supported are "
            f"{', '.join(sorted(supported))}"
        )
    found: dict[str, Any] = {}
    if layer.bidirectional:
        found["direction"] = "bidirectional"
    elif own.get("reverse"):
        found["direction"] = "reverse"
    if "clip" in own:
        found["clip"] = float(own["clip"])
    if own.get("coupled"):
        found["input_forget"] = 1
    if op == "GRU":
        found["linear_before_reset"] = int(configuration["reset_after"])
    return found | _activations(where, layer, configuration)


def _activations(
    where: str, layer: Recurrent[Any], configuration: dict[str, Any]
) -> dict[str, Any]:
    """activations, activation_alpha and activation_beta, or nothing for the usual ones."""
    chosen = configuration.get("activations")
    if chosen is None:
        if configuration.get("nonlinearity", "tanh") == "tanh":
            return {}
        chosen = [configuration["nonlinearity"]]
    kind = layer._kind
    checked = settings(where, kind.for_settings, {**_coupled(kind), "activations": chosen})
    assert checked.activations is not None
    gates = {"lstm": "ifgo", "gru": "rzn", "rnn": "h"}[kind.family]
    if kind.core_name == "lstm_coupled":
        gates = "igo"
    by_gate = dict(zip(gates, checked.activations, strict=False))
    candidate = [by_gate.pop(gate) for gate in "gn" if gate in by_gate]
    if len(set(by_gate.values())) != 1:
        raise ValueError(
            f"{where}: ONNX has one activation for the gates {', '.join(by_gate)}; got {chosen}"
        )
    functions = [next(iter(by_gate.values())), *candidate, *checked.activations[len(gates) :]]
    functions *= kind.directions
    written = {name.lower(): name for name in _WRITTEN}
    found: dict[str, Any] = {"activations": [written[f.name] for f in functions]}
    if all((f.alpha, f.beta) == FUNCTIONS[f.name][2:] for f in functions):
        return found
    for name, takes in (("alpha", 1), ("beta", 2)):
        takers = [f for f in functions if NUMBERS.get(f.name, 0) >= takes]
        if takers:
            found[f"activation_{name}"] = [getattr(f, name) for f in takers]
    return found


def _coupled(kind: stack.Kind) -> Features:
    return {"coupled": True} if kind.core_name == "lstm_coupled" else {}


class _Graph:
    """Nodes and constants as they come."""

    def __init__(
        self, layer: Recurrent[Any], batch_first: bool, attributes: dict[str, Any]
    ) -> None:
        self.layer, self.batch_first, self.attributes = layer, batch_first, attributes
        self.op = layer._kind.family.upper()
        self.rows = 2 if layer.bidirectional else 1
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.float = helper.np_dtype_to_tensor_dtype(layer.dtype)

    def add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, array: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def build(self, lengths: bool, state: bool) -> None:
        layer, declare = self.layer, helper.make_tensor_value_info
        H, depth, rows = layer.hidden_size, layer.num_layers, self.rows
        axes = ["B", "T"] if layer.batch_first else ["T", "B"]
        self.inputs = [declare("x", self.float, [*axes, layer.input_size])]
        self.outputs = [declare("y", self.float, [*axes, rows * H])]
        if lengths:
            self.inputs.append(declare("lengths", TensorProto.INT32, ["B"]))
        parts = "hc" if self.op == "LSTM" else "h"
        for part in parts:
            of_state = self.float, [depth * rows, "B", H]
            self.outputs.append(declare(f"{part}_n", *of_state))
            if state:
                self.inputs.append(declare(f"{part}0", *of_state))
        self.constant("merged", np.array([0, 0, rows * H]))  # 0: as it was
        swaps = layer.batch_first != self.batch_first
        y = self.add("Transpose", ["x"], "x_turned", perm=[1, 0, 2]) if swaps else "x"
        ends: dict[str, list[str]] = {part: [] for part in parts}
        for level in range(depth):
            starts = [self._start(part, level) if state else "" for part in parts]
            W, R, B, P = self._weights(level)
            inputs = [y, W, R, B, "lengths" if lengths else "", *starts]
            y = self._level(level, [*inputs, P] if self.op == "LSTM" else inputs, ends)
        if swaps:
            self.add("Transpose", [y], "y", perm=[1, 0, 2])
        else:
            self.add("Identity", [y], "y")
        for part, found in ends.items():
            self.add("Concat", found, f"{part}_n", axis=0)

    def _weights(self, level: int) -> list[str]:
        """Names of W, R, B and P; "" for one that is not there."""
        kind = self.layer._kind.core_name.replace("_tanh", "").replace("_relu", "")
        rows = [self.layer._row_parameters(level, d) for d in range(self.rows)]
        arrays = write(kind, rows)
        return [
            self.constant(f"{name}{level}", arrays[name]) if name in arrays else ""
            for name in ("W", "R", "B", "P")
        ]

    def _start(self, part: str, level: int) -> str:
        """A level's rows of h0 or c0, as a node takes them."""
        places = np.arange(level * self.rows, (level + 1) * self.rows)
        name = f"{part}0_{level}"
        found = self.add("Gather", [f"{part}0", self.constant(f"{name}_rows", places)], name)
        return self._turned(found)

    def _turned(self, name: str) -> str:
        """A state from (D, B, H) to (B, D, H), or back."""
        if not self.batch_first:
            return name
        return self.add("Transpose", [name], f"{name}_turned", perm=[1, 0, 2])

    def _level(self, level: int, inputs: list[str], ends: dict[str, list[str]]) -> str:
        while not inputs[-1]:
            inputs.pop()
        Y = f"Y{level}"
        finals = [f"{part}_n{level}" for part in ends]
        node = helper.make_node(
            self.op, inputs, [Y, *finals], name=f"level{level}", **self.attributes
        )
        self.nodes.append(node)
        for found, final in zip(ends.values(), finals, strict=True):
            found.append(self._turned(final))
        if not self.batch_first:
            Y = self.add("Transpose", [Y], f"{Y}_turned", perm=[0, 2, 1, 3])
        return self.add("Reshape", [Y, "merged"], f"y{level}")

    def model(self, opset: int) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, self.op, self.inputs, self.outputs, self.constants)
        imports = [helper.make_opsetid("", opset)]
        ir_version = max(4, helper.find_min_ir_version_for(imports))  # 4: constants are no inputs
        made = helper.make_model(
            graph, producer_name="fastrnn", opset_imports=imports, ir_version=ir_version
        )
        onnx.checker.check_model(made)
        return made
