"""Layers to ONNX and back: the same numbers by ONNX Runtime, the same bits by fastrnn."""

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

import fastrnn
import fastrnn.onnx

T, B, I = 6, 3, 4
LAYERS: dict[str, Any] = {
    "lstm": lambda: fastrnn.LSTM(I, 5, seed=0),
    "lstm stack": lambda: fastrnn.LSTM(I, 5, 3, bidirectional=True, batch_first=True, seed=1),
    "lstm options": lambda: fastrnn.LSTM(
        *(I, 5, 2),
        bidirectional=True,
        seed=2,
        peephole=True,
        clip=0.5,
        activations=[("hardsigmoid", 0.25, 0.5)] * 2
        + [("elu", 0.75), ("hardsigmoid", 0.25, 0.5), "softsign"],
    ),
    "lstm coupled": lambda: fastrnn.LSTM(I, 5, seed=3, coupled=True, peephole=True),
    "lstm without bias": lambda: fastrnn.LSTM(I, 5, 2, bias=False, dropout=0.5, seed=4),
    "gru": lambda: fastrnn.GRU(I, 7, 2, batch_first=True, seed=5),
    "gru reset before": lambda: fastrnn.GRU(I, 7, 2, bidirectional=True, reset_after=False, seed=6),
    "gru options": lambda: fastrnn.GRU(
        I, 7, seed=7, activations=["hardsigmoid", "hardsigmoid", "relu"], recurrent_dropout=0.5
    ),
    "rnn": lambda: fastrnn.RNN(I, 6, 2, bidirectional=True, seed=8),
    "rnn relu": lambda: fastrnn.RNN(I, 6, 2, nonlinearity="relu", seed=9),
    "reverse": lambda: fastrnn.GRU(I, 6, 2, reverse=True, seed=11),
    "rnn options": lambda: fastrnn.RNN(I, 6, seed=10, activations=["softplus"], clip=1.5),
}


def feeds_of(layer: Any, lengths: bool, state: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """The model's inputs, and what the layer's forward takes beside x."""
    rng = np.random.default_rng(0)
    shape = (B, T, I) if layer.batch_first else (T, B, I)
    feeds = {"x": rng.standard_normal(shape).astype(layer.dtype)}
    more: dict[str, Any] = {}
    if lengths:
        feeds["lengths"] = more["lengths"] = np.array([3, T, 1], np.int32)
    if state:
        names = ["h0", "c0"] if isinstance(layer, fastrnn.LSTM) else ["h0"]
        rows = layer.num_layers * (1 + layer.bidirectional), B, layer.hidden_size
        feeds |= {name: rng.standard_normal(rows).astype(layer.dtype) for name in names}
        more["state"] = tuple(feeds[name] for name in names) if len(names) == 2 else feeds["h0"]
    return feeds, more


def results_of(layer: Any, feeds: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    y, state = layer.forward(feeds["x"], **more)
    parts = state if isinstance(state, tuple) else (state,)
    return {"y": y, **dict(zip(("h_n", "c_n"), parts, strict=False))}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("given", ["x alone", "lengths", "state", "lengths and state"])
def test_onnx_runtime_runs_an_exported_layer(name: str, given: str, tmp_path: Path) -> None:
    layer, lengths, state = LAYERS[name](), "lengths" in given, "state" in given
    opset = (7, 9, 13, 14, 17, 21)[list(LAYERS).index(name) % 6]
    path = tmp_path / "layer.onnx"
    fastrnn.onnx.export(layer, path, opset=opset, lengths=lengths, state=state)
    feeds, more = feeds_of(layer, lengths, state)
    expected = results_of(layer, feeds, more)
    theirs = by_onnxruntime(onnx.load(path), feeds)
    assert list(theirs) == list(expected)
    for result, value in expected.items():
        assert_close(theirs[result], value, "float32", "forward", T, name=result)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_exported_layer_comes_back_to_the_last_bit(
    name: str, layout: int, dtype: str, tmp_path: Path
) -> None:
    plain = LAYERS[name]()
    values = {key: np.asarray(a, dtype) for key, a in plain.state_dict().items()}
    layer = type(plain)(**{**plain.configuration(), "dtype": dtype})
    layer.load_state_dict(values)
    path = tmp_path / "layer.onnx"
    fastrnn.onnx.export(layer, path, layout=layout, opset=22, lengths=True, state=True)
    feeds, more = feeds_of(layer, True, True)
    expected = results_of(layer, feeds, more)
    for result, value in fastrnn.onnx.run(path, feeds).items():
        np.testing.assert_array_equal(value, expected[result])
    (back,) = fastrnn.onnx.load(path)
    assert type(back) is type(layer)
    assert back.batch_first == (layout == 1)
    assert list(back.parameters) == list(layer.parameters)
    for key, value in layer.parameters.items():
        np.testing.assert_array_equal(back.parameters[key], value)
    if layer.batch_first != back.batch_first:
        feeds["x"] = feeds["x"].swapaxes(0, 1)
        expected["y"] = expected["y"].swapaxes(0, 1)
    for result, value in results_of(back, feeds, more).items():
        np.testing.assert_array_equal(value, expected[result])


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda: fastrnn.LSTM(I, 5, proj_size=2), "ONNX's LSTM has no proj_size; supported are"),
        (lambda: fastrnn.LSTM(I, 5, cell_clip=1.0), "has no cell_clip; supported are activations"),
        (lambda: fastrnn.GRU(I, 5, layer_norm="output", zoneout=0.1), "no layer_norm, zoneout;"),
        (lambda: fastrnn.RNN(I, 5, bidirectional=True, merge="sum"), "ONNX's RNN has no merge"),
        (lambda: fastrnn.LSTM(I, [5, 6]), r"levels must be of one size, got \(5, 6\)"),
        (
            lambda: fastrnn.GRU(I, 5, activations=["sigmoid", "tanh", "tanh"]),
            "one activation for the gates r, z; got",
        ),
    ],
)
def test_what_onnx_has_not_is_refused_by_name(layer: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^fastrnn.onnx.export: .*{message}"):
        fastrnn.onnx.export(layer(), tmp_path / "layer.onnx")
    assert not list(tmp_path.iterdir())


def test_bad_arguments_of_export(tmp_path: Path) -> None:
    layer, path = fastrnn.GRU(I, 5), tmp_path / "layer.onnx"
    with pytest.raises(ValueError, match="layout must be 0 or 1, got 2"):
        fastrnn.onnx.export(layer, path, layout=2)
    with pytest.raises(ValueError, match=r"opset must be in 14 to \d+ with layout 1, got 13"):
        fastrnn.onnx.export(layer, path, layout=1, opset=13)
    with pytest.raises(ValueError, match=r"opset must be in 7 to \d+ with layout 0, got 6"):
        fastrnn.onnx.export(layer, path, opset=6)
    with pytest.raises(TypeError, match=r"wanted is a fastrnn\.LSTM, GRU or RNN, .* got dict"):
        fastrnn.onnx.export({}, path)


def test_a_module_of_torch_is_written_by_its_state_dict(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch's modules")
    import fastrnn.torch

    path = tmp_path / "layer.onnx"
    for make in (
        lambda: torch.nn.LSTM(I, 5, 2, bidirectional=True, batch_first=True),
        lambda: torch.nn.RNN(I, 5, nonlinearity="relu", bias=False),
        lambda: fastrnn.torch.GRU(I, 5, reset_after=False),
    ):
        module = make().eval()
        fastrnn.onnx.export(module, path)
        x = torch.randn(3, 6, I)
        with torch.no_grad():
            y, _ = module(x)
        ours = fastrnn.onnx.run(path, {"x": x.numpy()})["y"]
        theirs = by_onnxruntime(onnx.load(path), {"x": x.numpy()})["y"]
        for found in (ours, theirs):
            assert_close(found, y.numpy(), "float32", "forward", 6)
    with pytest.raises(ValueError, match="has no proj_size"):
        fastrnn.onnx.export(torch.nn.LSTM(I, 5, proj_size=2), path)


def graph_of(*between: Any, second_input: int = 5, **constants: Any) -> onnx.ModelProto:
    """Two LSTMs of H = 5 and what is between them: from "Y" to "X2"."""
    rng = np.random.default_rng(0)
    arrays = dict(constants)
    for k, size in ((1, I), (2, second_input)):
        arrays[f"W{k}"] = rng.standard_normal((1, 20, size)).astype(np.float32)
        arrays[f"R{k}"] = rng.standard_normal((1, 20, 5)).astype(np.float32)
    nodes = [
        helper.make_node("LSTM", ["x", "W1", "R1"], ["Y"], "first", hidden_size=5),
        *between,
        helper.make_node("LSTM", ["X2", "W2", "R2"], ["Y2"], "second", hidden_size=5),
    ]
    declare = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "graph",
        [declare("x", TensorProto.FLOAT, ["T", "B", I])],
        [declare("Y2", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


NODE = helper.make_node
AXIS = np.array([1])


@pytest.mark.parametrize(
    ("between", "constants"),
    [
        ([NODE("Squeeze", ["Y", "a"], ["X2"])], {"a": AXIS}),
        (
            [
                NODE("Transpose", ["Y"], ["t"], perm=[0, 2, 1, 3]),
                NODE("Shape", ["x"], ["s"]),
                NODE("Slice", ["s", "zero", "two"], ["head"]),
                NODE("Concat", ["head", "rest"], ["shape"], axis=0),
                NODE("Reshape", ["t", "shape"], ["r"]),
                NODE("Dropout", ["r"], ["X2"]),
            ],
            {"zero": np.array([0]), "two": np.array([2]), "rest": np.array([-1])},
        ),
    ],
)
def test_nodes_of_which_one_feeds_the_next_are_one_layer(between: Any, constants: Any) -> None:
    model = graph_of(*between, **constants)
    (layer,) = fastrnn.onnx.load(model)
    assert layer.num_layers == 2
    x = np.random.default_rng(1).standard_normal((T, B, I)).astype(np.float32)
    np.testing.assert_array_equal(
        layer.forward(x)[0], fastrnn.onnx.run(model, {"x": x})["Y2"][:, 0]
    )


SQUEEZE = NODE("Squeeze", ["Y", "a"], ["y"])


@pytest.mark.parametrize(
    "between",
    [
        [SQUEEZE, NODE("Relu", ["y"], ["p"]), NODE("Neg", ["p"], ["X2"])],
        [SQUEEZE, NODE("Add", ["y", "one"], ["X2"])],
        [SQUEEZE, NODE("ReduceMean", ["x"], ["m"]), NODE("Mul", ["y", "m"], ["X2"])],
        [SQUEEZE, NODE("Slice", ["y", "last", "first", "zero", "back"], ["X2"])],
        [SQUEEZE, NODE("Softmax", ["y"], ["X2"])],
    ],
    ids=["relu", "add", "of the input", "turned around", "softmax"],
)
def test_nodes_with_something_between_them_are_layers_of_their_own(between: Any) -> None:
    constants = {"a": AXIS, "one": np.float32(1), "zero": np.array([0])}
    constants |= {"last": np.array([-1]), "first": np.array([-99]), "back": np.array([-1])}
    layers = fastrnn.onnx.load(graph_of(*between, **constants))
    assert [layer.num_layers for layer in layers] == [1, 1]


def test_what_a_layer_has_not_is_refused_by_name() -> None:
    squeeze = {"a": AXIS}
    between = NODE("Squeeze", ["Y", "a"], ["X2"])

    def refused(change: Any, message: str) -> None:
        model = graph_of(between, **squeeze)
        change(model.graph)
        with pytest.raises(ValueError, match=message):
            fastrnn.onnx.load(model)

    def attribute(**given: Any) -> Any:
        made = [helper.make_attribute(k, v) for k, v in given.items()]
        return lambda graph: graph.node[0].attribute.extend(made)

    def constant(place: int, array: Any) -> Any:
        def change(graph: Any) -> None:
            graph.initializer.append(numpy_helper.from_array(array, "new"))
            names = [*graph.node[0].input, *[""] * (place - len(graph.node[0].input)), "new"]
            graph.node[0].input[:] = names

        return change

    refused(constant(5, np.ones((1, B, 5), np.float32)), "'first' .*initial_h is a constant that")
    refused(constant(4, np.ones(B, np.int32)), "'first' .*sequence_lens is a constant")
    empty = graph_of(between, **squeeze)
    del empty.graph.node[:]
    empty.graph.output[0].name = "x"
    with pytest.raises(ValueError, match="the model has no LSTM, GRU or RNN"):
        fastrnn.onnx.load(empty)
