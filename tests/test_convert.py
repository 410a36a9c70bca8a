"""Weights between layouts: each against its framework's own computation, and back without loss."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastrnn
from fastrnn import reference
from fastrnn.cli import main
from fastrnn.layouts import LAYOUTS, files

os.environ.setdefault("KERAS_BACKEND", "torch")
T, B, I, H = 5, 3, 4, 6
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
KINDS = [
    (layout, kind)
    for layout in LAYOUTS
    for kind in ("lstm", "gru", "gru_reset_before", "rnn")
    if kind in LAYOUTS[layout].forms
]


def options(kind: str) -> dict[str, Any]:
    return {"cell": kind.split("_")[0], "reset_after": kind != "gru_reset_before"}


def torch_layout(
    rng: np.random.Generator, cell: str, layers: int = 1, directions: int = 1, bias: bool = True
) -> dict[str, np.ndarray]:
    G, params = GATES[cell], {}
    for layer in range(layers):
        for suffix in ("", "_reverse")[:directions]:
            inputs = directions * H if layer else I
            shapes = {"weight_ih": (G * H, inputs), "weight_hh": (G * H, H)}
            if bias:
                shapes |= {"bias_ih": (G * H,), "bias_hh": (G * H,)}
            for name, shape in shapes.items():
                array = rng.uniform(-0.6, 0.6, shape).astype(np.float32)
                params[f"{name}_l{layer}{suffix}"] = array
    return params


def lossless(params: dict[str, np.ndarray], layout: str, kind: str) -> dict[str, np.ndarray]:
    """The same, without what the layout cannot hold."""
    if (layout, kind) == ("flax", "gru"):
        params = {
            name: np.where(np.arange(a.size) < 2 * H, a, 0).astype(a.dtype)
            if "bias_hh" in name
            else a
            for name, a in params.items()
        }
    return params


def direction(params: dict[str, np.ndarray], suffix: str = "_l0") -> list[np.ndarray | None]:
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return [params.get(name + suffix) for name in names]


def outputs(params: dict[str, np.ndarray], kind: str, x: np.ndarray, **more: Any) -> np.ndarray:
    weights = direction(params, more.pop("suffix", "_l0"))
    if kind == "lstm":
        return reference.lstm_forward(x, *weights, **more)[0]
    if kind == "rnn":
        return reference.rnn_forward(x, *weights, **more)[0]
    return reference.gru_forward(x, *weights, reset_after=kind == "gru", **more)[0]


# ------------------------------------------------------------------------------- there and back


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize("merge_bias", ["ih", "hh", "split"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize(("layout", "kind"), KINDS)
def test_to_torch_and_back_is_exact(
    rng: np.random.Generator,
    layout: str,
    kind: str,
    layers: int,
    directions: int,
    bias: bool,
    merge_bias: Any,
) -> None:
    params = torch_layout(rng, kind.split("_")[0], layers, directions, bias)
    theirs = fastrnn.convert(lossless(params, layout, kind), "torch", layout, **options(kind))
    ours = fastrnn.convert(theirs, layout, "torch", merge_bias=merge_bias, **options(kind))
    assert_same(fastrnn.convert(ours, "torch", layout, **options(kind)), theirs)


@pytest.mark.parametrize(("layout", "kind"), KINDS)
def test_what_torch_computes_survives_every_layout(
    rng: np.random.Generator, layout: str, kind: str
) -> None:
    params = lossless(torch_layout(rng, kind.split("_")[0], 2, 2), layout, kind)
    theirs = fastrnn.convert(params, "torch", layout, **options(kind))
    again = fastrnn.convert(theirs, layout, "torch", **options(kind))
    assert again.keys() == params.keys()
    x = rng.standard_normal((T, B, I))
    for suffix in ("_l0", "_l0_reverse"):
        np.testing.assert_allclose(
            outputs(again, kind, x, suffix=suffix),
            outputs(params, kind, x, suffix=suffix),
            atol=1e-6,
        )


@pytest.mark.parametrize("dst", LAYOUTS)
@pytest.mark.parametrize("src", LAYOUTS)
def test_every_layout_reaches_every_other(rng: np.random.Generator, src: str, dst: str) -> None:
    for kind in LAYOUTS[src].forms.keys() & LAYOUTS[dst].forms.keys():
        params = lossless(torch_layout(rng, kind.split("_")[0]), "flax", kind)
        first = fastrnn.convert(params, "torch", src, **options(kind))
        second = fastrnn.convert(first, src, dst, **options(kind))
        again = fastrnn.convert(second, dst, "torch", **options(kind))
        x = rng.standard_normal((T, B, I))
        np.testing.assert_allclose(
            outputs(again, kind, x), outputs(params, kind, x), atol=1e-6, err_msg=kind
        )


def test_float64_and_float16_stay_what_they_are(rng: np.random.Generator) -> None:
    for dtype in (np.float64, np.float16):
        params = {n: a.astype(dtype) for n, a in torch_layout(rng, "lstm").items()}
        for layout in LAYOUTS:
            theirs = fastrnn.convert(params, "torch", layout, "lstm")
            floats = [a for a in theirs.values() if a.dtype.kind == "f"]
            assert {a.dtype for a in floats} == {np.dtype(dtype)}, layout


# ------------------------------------------------------------ each framework's own computation
# Each takes weights in its framework's layout and x (T, B, I) and gives y (T, B, H).


def run_keras(params: dict[str, np.ndarray], kind: str, x: np.ndarray) -> np.ndarray:
    keras = pytest.importorskip("keras")
    make = {
        "lstm": keras.layers.LSTM,
        "gru": keras.layers.GRU,
        "gru_reset_before": lambda H, **kw: keras.layers.GRU(H, reset_after=False, **kw),
        "rnn": keras.layers.SimpleRNN,
    }[kind]
    layer = make(H, return_sequences=True)
    layer.build((B, T, I))
    layer.set_weights(list(params.values()))
    return keras.ops.convert_to_numpy(layer(x.transpose(1, 0, 2))).transpose(1, 0, 2)


def run_onnx(params: dict[str, np.ndarray], kind: str, x: np.ndarray) -> np.ndarray:
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    operator = kind.split("_")[0].upper()
    more = {"linear_before_reset": 1} if kind == "gru" else {}
    node = onnx.helper.make_node(operator, ["X", *params], ["Y"], hidden_size=H, **more)
    shape = [T, B, I]
    graph = onnx.helper.make_graph(
        [node],
        "layer",
        [onnx.helper.make_tensor_value_info("X", onnx.TensorProto.FLOAT, shape)],
        [onnx.helper.make_tensor_value_info("Y", onnx.TensorProto.FLOAT, [T, 1, B, H])],
        [onnx.numpy_helper.from_array(array, name) for name, array in params.items()],
    )
    imports = [onnx.helper.make_opsetid("", 22)]
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"X": x})[0][:, 0]


def run_torch(params: dict[str, np.ndarray], kind: str, x: np.ndarray) -> np.ndarray:
    torch = pytest.importorskip("torch")
    layer = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}[kind](I, H)
    layer.load_state_dict({name: torch.from_numpy(array) for name, array in params.items()})
    with torch.no_grad():
        return layer(torch.from_numpy(x))[0].numpy()


def run_flax(params: dict[str, np.ndarray], kind: str, x: np.ndarray) -> np.ndarray:
    nnx = pytest.importorskip("flax.nnx")
    make = {"lstm": nnx.OptimizedLSTMCell, "gru": nnx.GRUCell, "rnn": nnx.SimpleCell}[kind]
    return flax_cell(nnx, make(I, H, rngs=nnx.Rngs(0)), params, x)


def run_flax_lstm_cell(params: dict[str, np.ndarray], kind: str, x: np.ndarray) -> np.ndarray:
    nnx = pytest.importorskip("flax.nnx")
    return flax_cell(nnx, nnx.LSTMCell(I, H, rngs=nnx.Rngs(0)), params, x)


def flax_cell(nnx: Any, cell: Any, params: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    for name, array in params.items():
        module, parameter = name.split(".")
        setattr(getattr(cell, module), parameter, nnx.Param(array))
    return np.asarray(nnx.RNN(cell, time_major=True)(x))


def run_haiku(params: dict[str, np.ndarray], kind: str, x: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hk = pytest.importorskip("haiku")
    import jax

    if kind == "rnn":
        pytest.skip("Haiku's plain RNN is a relu's")
    make = {"lstm": hk.LSTM, "gru_reset_before": hk.GRU}[kind]

    @hk.without_apply_rng
    @hk.transform
    def run(x: Any) -> Any:
        core = make(H)
        return hk.dynamic_unroll(core, x, core.initial_state(B))[0]

    (module,) = run.init(jax.random.PRNGKey(0), x)
    return np.asarray(run.apply({module: params}, x))


def run_equinox(params: dict[str, np.ndarray], kind: str, x: np.ndarray) -> np.ndarray:
    eqx = pytest.importorskip("equinox")
    import jax

    cell = {"lstm": eqx.nn.LSTMCell, "gru": eqx.nn.GRUCell}[kind](I, H, key=jax.random.PRNGKey(0))
    for name, array in params.items():
        cell = eqx.tree_at(lambda c, name=name: getattr(c, name), cell, jax.numpy.asarray(array))
    zero = jax.numpy.zeros(H)
    ys = []
    for b in range(B):
        state = (zero, zero) if kind == "lstm" else zero
        row = []
        for t in range(T):
            state = cell(x[t, b], state)
            row.append(state[0] if kind == "lstm" else state)
        ys.append(row)
    return np.asarray(ys).transpose(1, 0, 2)


def run_mlx(params: dict[str, np.ndarray], kind: str, x: np.ndarray) -> np.ndarray:
    nn = pytest.importorskip("mlx.nn")
    import mlx.core as mx

    layer = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[kind](I, H)
    layer.update({name: mx.array(array) for name, array in params.items()})
    found = layer(mx.array(np.ascontiguousarray(x.transpose(1, 0, 2))))
    y = found[0] if kind == "lstm" else found
    return np.array(y).transpose(1, 0, 2)


def run_jax(params: dict[str, np.ndarray], kind: str, x: np.ndarray) -> np.ndarray:
    jax = pytest.importorskip("jax")
    if kind != "lstm":
        pytest.skip("jax.experimental.rnn has the LSTM alone")
    from jax.experimental import rnn

    state = jax.numpy.zeros((1, B, H))
    lengths = np.full(B, T, np.int32)
    sizes = tuple(int(params[n]) for n in ("input_size", "hidden_size", "num_layers"))
    flat = jax.numpy.asarray(params["weights"])
    weights = rnn.unpack_lstm_weights(flat, *sizes, False)
    y, _, _ = rnn.lstm_ref(
        x.transpose(1, 0, 2), state, state, *weights, lengths, *sizes, 0.0, False
    )
    return np.asarray(y).transpose(1, 0, 2)


def run_openvino(params: dict[str, np.ndarray], kind: str, x: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ov = pytest.importorskip("openvino")
    from openvino import opset5 as ops

    rows = ops.parameter([B, T, I], np.float32)
    state = ops.constant(np.zeros((B, 1, H), np.float32))
    lengths = ops.constant(np.full(B, T, np.int32))
    W, R, bias = (ops.constant(params[name]) for name in ("W", "R", "B"))
    if kind == "lstm":
        node = ops.lstm_sequence(rows, state, state, lengths, W, R, bias, H, "FORWARD")
    elif kind == "rnn":
        node = ops.rnn_sequence(rows, state, lengths, W, R, bias, H, "FORWARD")
    else:
        node = ops.gru_sequence(
            rows, state, lengths, W, R, bias, H, "FORWARD", linear_before_reset=kind == "gru"
        )
    model = ov.Model([node.output(0)], [rows])
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    found = ov.compile_model(model, "CPU", exact)(np.ascontiguousarray(x.transpose(1, 0, 2)))[0]
    return found[:, 0].transpose(1, 0, 2)


def run_ncnn(params: dict[str, np.ndarray], kind: str, x: np.ndarray) -> np.ndarray:
    ncnn = pytest.importorskip("ncnn")
    operator = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}[kind]
    sizes = f"0={H} 1={params['weight_xc'].size}"
    net = ncnn.Net()
    net.opt.use_fp16_storage = net.opt.use_bf16_storage = net.opt.use_packing_layout = False
    net.opt.use_fp16_packed = net.opt.use_fp16_arithmetic = False
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.param"
        model.write_text(f"7767517\n2 2\nInput x 0 1 x\n{operator} layer 1 1 x y {sizes}\n")
        # each array after a tag that says float32; ncnn's order is input, bias, recurrent
        arrays = (params[name] for name in ("weight_xc", "bias_c", "weight_hc"))
        model.with_suffix(".bin").write_bytes(b"".join(bytes(4) + a.tobytes() for a in arrays))
        assert net.load_param(str(model)) == 0
        assert net.load_model(str(model.with_suffix(".bin"))) == 0
    rows = []
    for b in range(B):
        extractor = net.create_extractor()
        extractor.input("x", ncnn.Mat(np.ascontiguousarray(x[:, b])))
        rows.append(np.array(extractor.extract("y")[1]))
    return np.stack(rows, axis=1)


RUNNERS: dict[str, Callable[[dict[str, np.ndarray], str, np.ndarray], np.ndarray]] = {
    "torch": run_torch,
    "keras": run_keras,
    "onnx": run_onnx,
    "flax": run_flax,
    "flax_lstm_cell": run_flax_lstm_cell,
    "haiku": run_haiku,
    "equinox": run_equinox,
    "mlx": run_mlx,
    "jax": run_jax,
    "openvino": run_openvino,
    "ncnn": run_ncnn,
}


COMPUTED = [pair for pair in KINDS if pair[0] in RUNNERS and pair != ("torch", "gru_reset_before")]


@pytest.mark.filterwarnings("ignore")  # of the frameworks
@pytest.mark.parametrize(("layout", "kind"), COMPUTED)
def test_the_framework_computes_the_same(rng: np.random.Generator, layout: str, kind: str) -> None:
    params = lossless(torch_layout(rng, kind.split("_")[0]), layout, kind)
    x = rng.standard_normal((T, B, I)).astype(np.float32)
    theirs = fastrnn.convert(params, "torch", layout, **options(kind))
    y = RUNNERS[layout](theirs, kind, x)
    np.testing.assert_allclose(y, outputs(params, kind, x), atol=1e-6, rtol=1e-5)


# --------------------------------------------------------------- layouts without a runner, by hand


def test_layouts_of_the_documentation_have_its_order_and_axes() -> None:
    """Each gate's numbers tell which gate they are: 100 + its place in i f g o, or in r z n."""
    mark = {gate: 100 + k for order in ("ifgo", "rzn") for k, gate in enumerate(order)}
    for layout, kind, name, order, axis in (
        ("haste", "lstm", "kernel", "igfo", 1),
        ("haste", "gru", "recurrent_kernel", "zrn", 1),
        ("webnn", "lstm", "weight", "iofg", 1),
        ("webnn", "gru", "recurrentWeight", "zrn", 1),
        ("rtneural", "lstm", "kernel", "ifgo", 1),
        ("rtneural", "gru", "bias", "zrn", 1),
        ("tf1", "lstm", "kernel", "igfo", 1),
        ("tf1", "gru_reset_before", "gates/kernel", "rz", 1),
        ("onednn", "lstm", "weights_layer", "ifgo", 3),
        ("onednn", "gru_reset_before", "bias", "zrn", 2),
    ):
        torch_order = "ifgo" if kind == "lstm" else "rzn"
        rows = np.repeat([float(mark[gate]) for gate in torch_order], H)
        params = {
            "weight_ih_l0": np.tile(rows[:, None], (1, I)),
            "weight_hh_l0": np.tile(rows[:, None], (1, H)),
            "bias_ih_l0": rows,
            "bias_hh_l0": np.zeros_like(rows),
        }
        array = fastrnn.convert(params, "torch", layout, **options(kind))[name]
        array = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)[:, 0]
        if layout != "onednn":
            array = array.reshape(len(order), H)[:, 0]
        assert list(array) == [mark[gate] for gate in order], (layout, kind, name)


def test_tf1s_forget_gate_gets_its_one_at_run_time(rng: np.random.Generator) -> None:
    params = torch_layout(rng, "lstm")
    bias = fastrnn.convert(params, "torch", "tf1", "lstm")["bias"].reshape(4, H)
    summed = (params["bias_ih_l0"] + params["bias_hh_l0"]).reshape(4, H)
    np.testing.assert_allclose(bias[2], summed[1] - 1, atol=1e-6)


# ---------------------------------------------------------------------------------- what is refused


def test_a_bias_that_the_layout_cannot_hold_is_dropped_only_when_asked(
    rng: np.random.Generator,
) -> None:
    params = torch_layout(rng, "gru")
    with pytest.raises(ValueError, match=r"'flax', gru: it has no recurrent bias .*strict=False"):
        fastrnn.convert(params, "torch", "flax", "gru")
    dropped = fastrnn.convert(params, "torch", "flax", "gru", strict=False)
    again = fastrnn.convert(dropped, "flax", "torch", "gru")
    assert not again["bias_hh_l0"][2 * H :].any()


def test_a_gru_goes_into_a_layout_of_the_other_one_only_when_asked(
    rng: np.random.Generator,
) -> None:
    params = torch_layout(rng, "gru")
    with pytest.raises(ValueError, match="'haiku' has no GRU with the reset gate after"):
        fastrnn.convert(params, "torch", "haiku", "gru")
    assert fastrnn.convert(params, "torch", "haiku", "gru", strict=False)["w_i"].shape == (I, 3 * H)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight_ih_l0": None}, "weight_ih is missing"),
        ({"bias_hh_l0": None}, "bias_hh is missing"),
        (
            {"weight_ih_l0": np.zeros((23, 4))},
            r"weight_ih must be \(GH, I\) with GH = 24.*\(23, 4\)",
        ),
        ({"weight_hh_l0": np.zeros((24, 5))}, r"weight_hh must be \(4H, H\), got shape \(24, 5\)"),
        ({"weight_hh_l0": np.zeros((24, 6), int)}, "must be of a float dtype, got int64"),
        ({"bias_ih_l0": np.zeros(23)}, r"bias_ih must have 4H = 24 numbers.*\(23,\)"),
        ({"weight_hr_l0": np.zeros((2, 6))}, "weight_hr: unknown"),
        ({"weight": np.zeros((2, 6))}, "weight: unknown; names are like"),
        ({"weight_ih_l2": np.zeros((24, 6)), "weight_hh_l2": np.zeros((24, 6))}, "layer 1 is miss"),
    ],
)
def test_arrays_that_do_not_fit_are_named(
    rng: np.random.Generator, change: dict[str, Any], message: str
) -> None:
    params = {**torch_layout(rng, "lstm"), **change}
    params = {name: array for name, array in params.items() if array is not None}
    with pytest.raises(ValueError, match="^convert: layout 'torch', lstm: .*" + message):
        fastrnn.convert(params, "torch", "keras", "lstm")


@pytest.mark.parametrize("value", [np.ones(2, int), 2.5, "two"])
def test_a_size_beside_a_flat_array_is_one_integer(value: Any) -> None:
    sizes = {"input_size": 1, "hidden_size": value, "num_layers": 1, "num_directions": 1}
    with pytest.raises(ValueError, match="hidden_size must be one integer, got"):
        fastrnn.convert({"weights": np.zeros(7), **sizes}, "cudnn", "torch", "lstm")


@pytest.mark.parametrize("suffix", files.SUFFIXES)
def test_files_keep_shapes_and_dtypes(tmp_path: Path, suffix: str) -> None:
    arrays = {"size": np.array(3), "w": np.ones((2, 3), np.float32).T, "empty": np.zeros((0, 2))}
    files.save(tmp_path / f"w{suffix}", arrays)
    assert_same(files.load(tmp_path / f"w{suffix}"), arrays)


def test_a_flat_array_of_the_wrong_length_allocates_nothing() -> None:
    sizes = {"input_size": 10**9, "hidden_size": 10**9, "num_layers": 10**9, "num_directions": 2}
    with pytest.raises(ValueError, match="weights must be flat"):
        fastrnn.convert({"weights": np.zeros(7), **sizes}, "cudnn", "torch", "lstm")


def test_names_that_do_not_exist_are_refused(rng: np.random.Generator) -> None:
    params = torch_layout(rng, "lstm")
    for arguments, message in (
        (("caffe", "keras", "lstm"), "argument 'src' must be one of 'torch'.*got 'caffe'"),
        (("torch", "caffe", "lstm"), "argument 'dst'"),
        (("torch", "keras", "mlstm"), "argument 'cell' must be one of 'lstm', 'gru', 'rnn'"),
        (("equinox", "keras", "rnn"), "layout 'equinox' has no plain RNN"),
    ):
        with pytest.raises(ValueError, match=message):
            fastrnn.convert(params, *arguments)


# -------------------------------------------------------------------------------------- the command


@pytest.mark.parametrize("suffix", files.SUFFIXES)
def test_the_command_converts_files(
    rng: np.random.Generator, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    params = torch_layout(rng, "gru", 2, 2)
    first, second = tmp_path / ("a" + suffix), tmp_path / "b.npz"
    files.save(first, {"encoder." + name: array for name, array in params.items()})
    more = ["--from", "torch", "--to", "keras", "--cell", "gru", "--prefix", "encoder."]
    assert main(["convert", str(first), str(second), *more]) == 0
    assert_same(files.load(second), fastrnn.convert(params, "torch", "keras", "gru"))
    assert "1.reverse.kernel  float32  (12, 18)" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Keras's NumPy backend
def test_the_command_reads_what_keras_saves(tmp_path: Path) -> None:
    keras = pytest.importorskip("keras")
    pytest.importorskip("h5py")
    model = keras.Sequential(
        [
            keras.layers.Input((T, I)),
            keras.layers.Bidirectional(keras.layers.LSTM(H, return_sequences=True)),
            keras.layers.GRU(H),
        ]
    )
    path, out = tmp_path / "model.weights.h5", tmp_path / "out.safetensors"
    model.save_weights(path)
    for layer, cell in zip(model.layers, ("lstm", "gru"), strict=True):
        prefix = f"layers/{'bidirectional' if cell == 'lstm' else 'gru'}/"
        arguments = ["--from", "keras", "--to", "torch", "--cell", cell, "--prefix", prefix]
        assert main(["convert", str(path), str(out), *arguments]) == 0
        expected = fastrnn.convert(layer.get_weights(), "keras", "torch", cell)
        assert_same(files.load(out), expected)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npz", b"", "not an npz file"),
        ("a.npz", b"PK\x03\x04 and no more", "not an npz file"),
        ("a.safetensors", b"\xff" * 64, "a.safetensors"),
        ("a.h5", b"no HDF5", "a.h5"),
        ("a.pkl", b"", "must end in one of"),
        ("b.npz", None, "No such file"),
    ],
)
def test_the_command_complains_of_bad_files_in_one_line(
    tmp_path: Path,
    name: str,
    content: bytes | None,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    arguments = ["--from", "torch", "--to", "keras", "--cell", "lstm"]
    assert main(["convert", str(tmp_path / name), str(tmp_path / "out.npz"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
