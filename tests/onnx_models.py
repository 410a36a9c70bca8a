"""One recurrent node of ONNX with options drawn at random: its arrays, its model, what the float64
reference makes of it, and what ONNX Runtime does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime

from fastrnn import reference

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
ORDER = {"LSTM": [0, 3, 1, 2], "GRU": [1, 0, 2], "RNN": [0]}  # i o f c, z r h, in torch's order
DIRECTIONS = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}
DTYPES = ("float16", "bfloat16", "float32", "float64")
USUAL = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
# ONNX's activations: alpha, beta, exact in float32, which attributes are
ACTIVATIONS: dict[str, tuple[float, ...]] = {
    "Relu": (),
    "Tanh": (),
    "Sigmoid": (),
    "Affine": (0.75, 0.125),
    "LeakyRelu": (0.25,),
    "ThresholdedRelu": (0.1875,),
    "ScaledTanh": (0.875, 0.6875),
    "HardSigmoid": (0.3125, 0.375),
    "Elu": (0.8125,),
    "Softsign": (),
    "Softplus": (),
}
_BATCHED = {"X", "initial_h", "initial_c"}


def dtype_of(name: str) -> Any:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


@dataclass
class Case:
    """inputs and attributes as ONNX has them; weights of each direction as torch does."""

    op: str
    opset: int
    dtype: Any
    inputs: dict[str, Any]
    attributes: dict[str, Any]
    weights: list[dict[str, Any]]
    outputs: list[str]
    description: str

    @property
    def batch_first(self) -> bool:
        return bool(self.attributes.get("layout", 0))

    @property
    def steps(self) -> int:
        return int(self.inputs["X"].shape[self.batch_first])


def draw(seed: int) -> Case:
    rng = np.random.default_rng([seed, 8])

    def chance(p: float = 0.5) -> bool:
        return bool(rng.random() < p)

    op = str(rng.choice(list(GATES)))
    opset = int(rng.choice([7, 11, 13, 14, 17, 21, 22]))
    direction = str(rng.choice(list(DIRECTIONS)))
    dtype = dtype_of(str(rng.choice(DTYPES, p=[0.15, 0.15, 0.5, 0.2])))
    if dtype.name == "bfloat16":
        opset = 22
    T, B, I = (int(rng.integers(1, top)) for top in (9, 6, 9))
    H = int(rng.choice([1, 3, 7, 8, 9, 17]))
    G, reverse = GATES[op], DIRECTIONS[direction]
    D = len(reverse)
    attributes: dict[str, Any] = {}
    if direction != "forward" or chance(0.3):
        attributes["direction"] = direction
    if chance(0.8):
        attributes["hidden_size"] = H
    if opset >= 14 and chance(0.35):
        attributes["layout"] = 1
    if chance(0.25):
        attributes["clip"] = 0.5
    if op == "GRU" and chance():
        attributes["linear_before_reset"] = 1
    coupled = op == "LSTM" and chance(0.3)
    if coupled:
        attributes["input_forget"] = 1
    names, alpha, beta = USUAL[op] * D, [], []
    numbers: list[tuple[float, ...]] = [()] * len(names)
    if chance(0.4):
        T = min(T, 4)  # gates without a bound let errors grow from step to step
        names = [str(n) for n in rng.choice(list(ACTIVATIONS), len(names))]
        numbers = [ACTIVATIONS[n] for n in names]
        attributes["activations"] = [n.lower() if chance(0.2) else n for n in names]
        alpha = [n[0] for n in numbers if n]
        beta = [n[1] for n in numbers if len(n) == 2]
        attributes |= {"activation_alpha": alpha} if alpha else {}
        attributes |= {"activation_beta": beta} if beta else {}

    def uniform(bound: float, *shape: int) -> Any:
        return rng.uniform(-bound, bound, shape).astype(dtype)

    def normal(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(dtype)

    biased, peepholes = chance(0.7), op == "LSTM" and chance(0.4)
    weights = []
    for _ in reverse:
        one: dict[str, Any] = {
            "w_ih": uniform(1 / np.sqrt(I), G * H, I),
            "w_hh": uniform(1 / np.sqrt(H), G * H, H),
        }
        if biased:
            one |= {"b_ih": uniform(0.5, G * H), "b_hh": uniform(0.5, G * H)}
        if peepholes:
            one["peephole"] = uniform(0.7, 3, H)
        weights.append(one)

    def stacked(name: str) -> Any:
        arrays = [one[name].reshape(G, H, *one[name].shape[1:])[ORDER[op]] for one in weights]
        return np.stack([a.reshape(G * H, *a.shape[2:]) for a in arrays])

    inputs = {"X": normal(T, B, I), "W": stacked("w_ih"), "R": stacked("w_hh")}
    if biased:
        inputs["B"] = np.concatenate([stacked("b_ih"), stacked("b_hh")], axis=1)
    if chance(0.4):
        inputs["sequence_lens"] = rng.integers(0, T, B, dtype=np.int32, endpoint=True)
    if chance():
        inputs["initial_h"] = normal(D, B, H)
    if op == "LSTM" and chance():
        inputs["initial_c"] = normal(D, B, H)
    if peepholes:
        inputs["P"] = np.stack([one["peephole"][[0, 2, 1]].reshape(-1) for one in weights])
    if attributes.get("layout"):
        for name in _BATCHED & inputs.keys():
            inputs[name] = np.ascontiguousarray(inputs[name].swapaxes(0, 1))
    for d, one in enumerate(weights):
        size = len(USUAL[op])
        chosen = [(name, *n) for name, n in zip(names, numbers, strict=True)][
            d * size : (d + 1) * size
        ]
        one["activations"] = {
            "LSTM": lambda f, g=None, h=None: [f, g, f, h] if coupled else [f, f, g, f, h],
            "GRU": lambda f, g=None: [f, f, g],
            "RNN": lambda f: [f],
        }[op](*chosen)
        if coupled:
            for name in one.keys() - {"activations", "peephole"}:
                one[name] = np.delete(one[name].reshape(4, H, -1), 1, axis=0).reshape(
                    3 * H, *one[name].shape[1:]
                )
            if peepholes:
                one["peephole"] = one["peephole"][[0, 2]]
    outputs = ["Y", "Y_h", "Y_c"][: 3 if op == "LSTM" else 2]
    if chance(0.3):
        outputs[int(rng.integers(len(outputs)))] = ""
    shown = {**attributes, "inputs": [n for n in inputs if n not in "XWR"]}
    description = f"{op}-{opset}-{dtype.name}-T{T}B{B}I{I}H{H}-{shown}"
    return Case(op, opset, dtype, inputs, attributes, weights, outputs, description)


def reference_of(case: Case) -> dict[str, Any]:
    """Y, Y_h and Y_c in float64."""
    functions: dict[str, Any] = {
        "LSTM": reference.lstm_forward,
        "GRU": reference.gru_forward,
        "RNN": reference.rnn_forward,
    }
    inputs = {
        n: a if n == "sequence_lens" else a.astype(np.float64) for n, a in case.inputs.items()
    }
    axis = int(case.batch_first)
    options: dict[str, Any] = {"clip": case.attributes.get("clip"), "batch_first": axis == 1}
    options["lengths"] = inputs.get("sequence_lens")
    if case.op == "GRU":
        options["reset_after"] = bool(case.attributes.get("linear_before_reset"))
    if case.attributes.get("input_forget"):
        options["coupled"] = True
    found: dict[str, list[Any]] = {"Y": [], "Y_h": [], "Y_c": []}
    for d, reverse in enumerate(DIRECTIONS[case.attributes.get("direction", "forward")]):
        weights = {
            n: a if n == "activations" else a.astype(np.float64) for n, a in case.weights[d].items()
        }
        states = {
            f"{name[-1]}0": inputs[name].take(d, axis)
            for name in ("initial_h", "initial_c")
            if name in inputs
        }
        y, state, _ = functions[case.op](
            inputs["X"], reverse=reverse, **weights, **states, **options
        )
        found["Y"].append(y)
        for name, value in zip(
            ("Y_h", "Y_c"), state if case.op == "LSTM" else (state,), strict=False
        ):
            found[name].append(value)
    axes = {"Y": 2 if axis else 1, "Y_h": axis, "Y_c": axis}
    return {n: np.stack(parts, axes[n]) for n, parts in found.items() if parts}


def model(case: Case, constants: tuple[str, ...] = ("W", "R", "B", "P")) -> onnx.ModelProto:
    """The node alone; `constants` are initializers, the rest inputs."""
    names = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"]
    names = names if case.op == "LSTM" else names[:6]
    given = [name if name in case.inputs else "" for name in names]
    while not given[-1]:
        given.pop()
    node = onnx.helper.make_node(case.op, given, case.outputs, name="node", **case.attributes)
    to_type = onnx.helper.np_dtype_to_tensor_dtype
    graph = onnx.helper.make_graph(
        [node],
        "case",
        [
            onnx.helper.make_tensor_value_info(name, to_type(a.dtype), a.shape)
            for name, a in case.inputs.items()
            if name not in constants
        ],
        [
            onnx.helper.make_tensor_value_info(name, to_type(case.dtype), None)
            for name in case.outputs
            if name
        ],
        [onnx.numpy_helper.from_array(a, n) for n, a in case.inputs.items() if n in constants],
    )
    imports = [onnx.helper.make_opsetid("", case.opset)]
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=8)


def as_onnxruntime_has_it(case: Case) -> Case:
    """The same in what ONNX Runtime knows: batch second, hidden_size given, opset below 22, names
    of activations as the specification writes them.
    """
    attributes = {k: v for k, v in case.attributes.items() if k != "layout"}
    attributes["hidden_size"] = case.inputs["R"].shape[2]
    if "activations" in attributes:
        written = {name.lower(): name for name in ACTIVATIONS}
        attributes["activations"] = [written[n.lower()] for n in attributes["activations"]]
    inputs = {
        name: a.swapaxes(0, 1) if case.batch_first and name in _BATCHED else a
        for name, a in case.inputs.items()
    }
    return replace(case, attributes=attributes, inputs=inputs, opset=min(case.opset, 21))


def by_onnxruntime(proto: onnx.ModelProto, feeds: dict[str, Any]) -> dict[str, Any]:
    """The outputs by name. Raises what ONNX Runtime does."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))
