"""The features of the family in the reference: against finite differences in float64, and against
PyTorch and ONNX Runtime, where they have them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from family import ACTIVATIONS, EVERY_ONE, Case, alone, combination
from tolerances import assert_close, tolerance

from fastrnn import reference
from fastrnn.reference import LayerNorm

STEP = 1e-5
ARGUMENTS = ("x", "w_ih", "w_hh", "b_ih", "b_hh", "h0", "c0", "w_hr", "peephole")
OF_NORM = ("gain_ih", "gain_hh", "gain_c", "bias_c")


def value_of(case: Case, name: str) -> Any:
    if name in OF_NORM:
        norm = case.inputs.get("layer_norm")
        return None if norm is None else getattr(norm, name)
    return case.inputs.get(name)


def moved(case: Case, name: str, value: Any) -> Case:
    change = (
        {"layer_norm": case.inputs["layer_norm"]._replace(**{name: value})}
        if name in OF_NORM
        else {name: value}
    )
    inputs = {**case.inputs, **change}
    return Case(case.family, inputs, case.cotangents, case.options, case.name)


def differences(case: Case, name: str, direction: Any) -> tuple[float, float]:
    """The loss's derivative along a direction by two step sizes: far apart, a kink lies between."""

    def central(step: float) -> float:
        value = value_of(case, name)
        ends = [moved(case, name, value + s * direction).loss(reference) for s in (step, -step)]
        return (ends[0] - ends[1]) / (2 * step)

    return central(STEP), central(STEP / 3)


def check(case: Case) -> tuple[int, int]:
    """How many arguments were compared, and how many not, for a kink that was too near."""
    case = Case(case.family, case.inputs, case.cotangents, {}, case.name)
    _, gradients = case.run(reference)
    draw = np.random.default_rng(3)
    done = left = 0
    for name in (*ARGUMENTS, *OF_NORM):
        value = value_of(case, name)
        if value is None:
            continue
        gradient = getattr(gradients, f"d{name}")
        assert gradient.shape == value.shape
        direction = draw.standard_normal(value.shape)
        size = np.sqrt(np.sum(gradient**2)) + 1e-3
        first, second = differences(case, name, direction)
        if abs(first - second) > tolerance("float64", "finite_difference") * size:
            left += 1
            continue
        done += 1
        error = abs(np.sum(gradient * direction) - second)
        assert error <= tolerance("float64", "finite_difference") * size, (case.name, name)
    return done, left


@pytest.mark.parametrize(("cell", "feature"), EVERY_ONE, ids="-".join)
def test_each_feature_matches_central_difference(cell: str, feature: str) -> None:
    counts = [check(alone(cell, feature, np.float64, seed)) for seed in range(4)]
    assert sum(left for _, left in counts) <= 0.2 * sum(done for done, _ in counts)


def test_combinations_match_central_difference() -> None:
    counts = [check(combination(seed, np.float64)) for seed in range(300)]
    assert sum(left for _, left in counts) <= 0.1 * sum(done for done, _ in counts)


def test_gradient_clip_bounds_what_leaves_a_step() -> None:
    case = alone("lstm", "grad_clip", np.float64, T=1)
    _, g = case.run(reference)
    bound = case.options["grad_clip"]
    assert np.abs(g.db_ih).max() <= bound * len(case.inputs["x"][0])
    _, wide = Case(case.family, case.inputs, case.cotangents, {"grad_clip": 1e9}, "").run(reference)
    _, without = Case(case.family, case.inputs, case.cotangents, {}, "").run(reference)
    for a, b in zip(wide, without, strict=False):
        assert np.array_equal(a, b)


def test_step_norms_are_the_norms_of_the_gradient_of_each_h() -> None:
    """dL/dh_t through the steps after it is dh_n of a call that ends there."""
    case = alone("lstm", "step_norms", np.float64)
    y, _, saved = reference.lstm_forward(**case.inputs)
    dy = case.cotangents["dy"]
    g = reference.lstm_backward(saved, dy, return_step_norms=True)
    h, c = case.inputs["h0"], case.inputs["c0"]
    for t in range(len(y)):
        rest = {**case.inputs, "x": case.inputs["x"][t + 1 :], "h0": y[t]}
        _, (_, c), _ = reference.lstm_forward(
            **{**case.inputs, "x": case.inputs["x"][t : t + 1], "h0": h, "c0": c}
        )
        later = reference.lstm_forward(**{**rest, "c0": c})[2]
        dh = dy[t] + reference.lstm_backward(later, dy[t + 1 :]).dh0
        assert_close(
            g.step_norms[t], np.linalg.norm(dh, axis=1), "float64", "gradient", name=f"t = {t}"
        )
        h = y[t]


def test_zoneout_keeps_units_as_often_as_asked_and_expects_so() -> None:
    rng = np.random.default_rng(0)
    B, H = 50, 40
    x, w_ih, w_hh = rng.standard_normal((1, B, 3)), rng.standard_normal((H, 3)), np.zeros((H, H))
    h0 = 2 + rng.random((B, H))  # beyond the reach of tanh
    y, *_ = reference.rnn_forward(x, w_ih, w_hh, h0=h0, zoneout=0.3, seed=5)
    kept = y[0] == h0
    assert abs(kept.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / kept.size)
    plain, *_ = reference.rnn_forward(x, w_ih, w_hh, h0=h0)
    assert np.array_equal(y[0][~kept], plain[0][~kept])
    expected, *_ = reference.rnn_forward(x, w_ih, w_hh, h0=h0, zoneout=0.3, training=False)
    np.testing.assert_allclose(expected[0], 0.3 * h0 + 0.7 * plain[0], rtol=1e-14)


@pytest.mark.parametrize("reverse", [False, True])
def test_projection_matches_torch(reverse: bool) -> None:
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    case = alone("lstm", "projection", np.float64)
    module = torch.nn.LSTM(3, 7, proj_size=case.inputs["w_hh"].shape[1], dtype=torch.float64)
    names = {"w_ih": "weight_ih_l0", "w_hh": "weight_hh_l0", "b_ih": "bias_ih_l0"}
    names |= {"b_hh": "bias_hh_l0", "w_hr": "weight_hr_l0"}
    module.load_state_dict({n: torch.tensor(case.inputs[a]) for a, n in names.items()})
    x = torch.tensor(case.inputs["x"], requires_grad=True)
    state = [torch.tensor(case.inputs[n])[None].requires_grad_() for n in ("h0", "c0")]
    y, (h_n, c_n) = module(x.flip(0) if reverse else x, tuple(state))
    y = y.flip(0) if reverse else y
    loss = sum(
        (torch.tensor(case.cotangents[d]) * v).sum()
        for d, v in (("dy", y), ("dh_n", h_n[0]), ("dc_n", c_n[0]))
    )
    loss.backward()
    named, g = Case("lstm", {**case.inputs, "reverse": reverse}, case.cotangents, {}, "").run(
        reference
    )
    for ours, theirs in ((named["y"], y), (named["h_n"], h_n[0]), (named["c_n"], c_n[0])):
        assert_close(ours, theirs.detach().numpy(), "float64", "forward")
    for name, theirs in [
        ("x", x.grad),
        ("h0", state[0].grad[0]),
        ("c0", state[1].grad[0]),
        *((a, getattr(module, n).grad) for a, n in names.items()),
    ]:
        assert_close(getattr(g, f"d{name}"), theirs.numpy(), "float64", "gradient", name=name)


@pytest.mark.parametrize("variant", ["output", "state"])
def test_layer_norm_matches_a_loop_over_torch_ops(variant: str) -> None:
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    case = alone("lstm", f"layer_norm_{variant}", np.float64)
    norm = case.inputs["layer_norm"]
    given = {n: v for n, v in case.inputs.items() if n != "layer_norm"}
    t = {n: torch.tensor(v, requires_grad=True) for n, v in given.items()}
    t |= {n: torch.tensor(getattr(norm, n), requires_grad=True) for n in OF_NORM}

    def normalised(v: Any, gain: Any, bias: Any) -> Any:
        return torch.nn.functional.layer_norm(v, v.shape[-1:], gain, bias, norm.eps)

    h, c = t["h0"], t["c0"]
    loss = 0
    for step, x in enumerate(t["x"]):
        gates = normalised(x @ t["w_ih"].T, t["gain_ih"], t["b_ih"])
        gates = gates + normalised(h @ t["w_hh"].T, t["gain_hh"], t["b_hh"])
        i, f, g, o = gates.chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        inside = normalised(c, t["gain_c"], t["bias_c"])
        c = inside if variant == "state" else c
        h = o.sigmoid() * inside.tanh()
        loss = loss + (torch.tensor(case.cotangents["dy"][step]) * h).sum()
    for d, v in (("dh_n", h), ("dc_n", c)):
        loss = loss + (torch.tensor(case.cotangents[d]) * v).sum()
    loss.backward()
    named, gradients = case.run(reference)
    assert_close(named["h_n"], h.detach().numpy(), "float64", "forward")
    assert_close(named["c_n"], c.detach().numpy(), "float64", "forward")
    for name, value in t.items():
        ours = getattr(gradients, f"d{name}")
        assert_close(ours, value.grad.numpy(), "float64", "gradient", name=name)


def onnx_runtime(op: str, order: list[int], inputs: dict[str, Any], **attributes: Any) -> Any:
    """y of one of the operators; gates in ONNX's order."""
    onnx = pytest.importorskip("onnx", reason="builds ONNX models")
    ort = pytest.importorskip("onnxruntime", reason="compares with ONNX Runtime")
    G = len(order)

    def reordered(a: Any) -> Any:
        return a.reshape(G, -1, *a.shape[1:])[order].reshape(a.shape)

    feeds = {
        "X": inputs["x"],
        "W": reordered(inputs["w_ih"])[None],
        "R": reordered(inputs["w_hh"])[None],
        "B": np.concatenate([reordered(inputs["b_ih"]), reordered(inputs["b_hh"])])[None],
    }
    if "peephole" in inputs:
        feeds["P"] = inputs["peephole"][[0, 2, 1]].reshape(1, -1)
    names = ["X", "W", "R", "B", *(["", "", "", "P"] if "P" in feeds else [])]
    hidden = inputs["w_hh"].shape[1]
    node = onnx.helper.make_node(op, names, ["Y"], hidden_size=hidden, **attributes)
    float32 = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [node],
        op,
        [onnx.helper.make_tensor_value_info(n, float32, a.shape) for n, a in feeds.items()],
        [onnx.helper.make_tensor_value_info("Y", float32, None)],
    )
    opset = [onnx.helper.make_opsetid("", 14)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)[0][:, 0]


LSTM_ORDER, GRU_ORDER = [0, 3, 1, 2], [1, 0, 2]


def plain(cell: str) -> dict[str, Any]:
    case = alone(cell, "none", np.float32)
    return {n: v for n, v in case.inputs.items() if n not in ("h0", "c0", "reset_after", "coupled")}


@pytest.mark.parametrize("clip", [None, 0.3, 1.0])
@pytest.mark.parametrize("peephole", [False, True], ids=["", "peephole"])
@pytest.mark.parametrize("coupled", [False, True], ids=["", "coupled"])
def test_lstm_matches_onnx_runtime(clip: float | None, peephole: bool, coupled: bool) -> None:
    inputs = plain("lstm")
    if peephole:
        inputs["peephole"] = alone("lstm", "peephole", np.float32).inputs["peephole"]
    attributes = {} if clip is None else {"clip": clip}
    theirs = onnx_runtime("LSTM", LSTM_ORDER, inputs, input_forget=int(coupled), **attributes)
    if coupled:  # the forget gate's rows are not used
        for name in ("w_ih", "w_hh", "b_ih", "b_hh"):
            a = inputs[name]
            inputs[name] = a.reshape(4, -1, *a.shape[1:])[[0, 2, 3]].reshape(-1, *a.shape[1:])
        if peephole:
            inputs["peephole"] = inputs["peephole"][[0, 2]]
    y = reference.lstm_forward(**inputs, coupled=coupled, clip=clip)[0]
    assert_close(theirs, y, "float32", "forward")


@pytest.mark.parametrize("reset_after", [False, True])
@pytest.mark.parametrize("activations", [("Sigmoid", "Tanh"), ("HardSigmoid", "Softsign")])
@pytest.mark.parametrize("clip", [None, 0.5])
def test_gru_matches_onnx_runtime(
    reset_after: bool, activations: tuple[str, str], clip: float | None
) -> None:
    inputs = plain("gru")
    attributes = {} if clip is None else {"clip": clip}
    theirs = onnx_runtime(
        "GRU",
        GRU_ORDER,
        inputs,
        linear_before_reset=int(reset_after),
        activations=activations,
        **attributes,
    )
    f, g = activations
    y = reference.gru_forward(**inputs, reset_after=reset_after, activations=(f, f, g), clip=clip)[
        0
    ]
    assert_close(theirs, y, "float32", "forward")


ONNX_NAMES = {
    name.lower(): name
    for name in (
        *("Relu", "Tanh", "Sigmoid", "Affine", "LeakyRelu", "ThresholdedRelu"),
        *("ScaledTanh", "HardSigmoid", "Elu", "Softsign", "Softplus"),
    )
}


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_activations_match_onnx_runtime(activation: Any) -> None:
    name, *numbers = (activation,) if isinstance(activation, str) else activation
    inputs = plain("rnn")
    lists = ([n] for n in numbers)
    attributes = dict(zip(("activation_alpha", "activation_beta"), lists, strict=False))
    theirs = onnx_runtime("RNN", [0], inputs, activations=[ONNX_NAMES[name]], **attributes)
    y = reference.rnn_forward(**inputs, activations=[activation])[0]
    assert_close(theirs, y, "float32", "forward")


WRONG = {
    "peephole of a GRU": ("gru", {"peephole": np.zeros((3, 7))}, "'peephole' must be left out"),
    "cell_clip of an RNN": ("rnn", {"cell_clip": 1.0}, "'cell_clip' must be left out"),
    "projection before reset": (
        "gru_reset_before",
        {"w_hr": np.zeros((2, 7))},
        "'w_hr' must be left out with reset_after=False",
    ),
    "probability": ("lstm", {"recurrent_dropout": 1.5}, r"'recurrent_dropout' must be in \[0, 1\]"),
    "zoneout of no c": ("rnn", {"zoneout": (0.1, 0.1)}, "there is no c"),
    "clip": ("lstm", {"clip": 0.0}, "'clip' must be above 0"),
    "activations": ("lstm", {"activations": ["tanh"]}, "'activations' must be a sequence of 5"),
    "numbers of an activation": ("rnn", {"activations": [("elu", 1, 2, 3)]}, "one or two numbers"),
    "no activation": ("rnn", {"activations": [3]}, "must hold names of sigmoid, tanh"),
    "no activations": ("rnn", {"activations": 3}, "'activations' must be a sequence of 1"),
    "unknown activation": ("rnn", {"activations": ["gelu"]}, "must hold names of sigmoid, tanh"),
    "variant": (
        "rnn",
        {"layer_norm": LayerNorm(np.ones(7), np.ones(7), variant="both")},
        "of variant 'output' or 'state'",
    ),
    "gain of c": (
        "lstm",
        {"layer_norm": LayerNorm(np.ones(28), np.ones(28))},
        "with gain_c and bias_c for the LSTM",
    ),
    "shape of w_hr": ("lstm", {"w_hr": np.zeros((7, 6))}, "w_hr must have shape"),
    "seed": ("lstm", {"zoneout": 0.1, "seed": -1}, "'seed' must be in"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_features_are_named(what: str) -> None:
    cell, change, message = WRONG[what]
    case = alone(cell, "none", np.float64)
    with pytest.raises(ValueError, match=message):
        getattr(reference, f"{case.family}_forward")(**{**case.inputs, **change})


def test_unknown_keywords_are_refused() -> None:
    case = alone("lstm", "none", np.float64)
    with pytest.raises(TypeError, match="unexpected keyword argument 'layernorm'"):
        reference.lstm_forward(**case.inputs, layernorm=True)
