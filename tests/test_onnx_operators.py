"""ONNX's LSTM, GRU and RNN with every attribute and input: against the float64 reference, and
against ONNX Runtime wherever it runs.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="ONNX's operators")
pytest.importorskip("onnxruntime", reason="compares with ONNX Runtime")

from onnx_models import (
    ACTIVATIONS,
    DTYPES,
    Case,
    as_onnxruntime_has_it,
    by_onnxruntime,
    draw,
    dtype_of,
    model,
    reference_of,
)
from tolerances import assert_close

import fastrnn.onnx

CASES = [draw(seed) for seed in range(480)]
FUNCTIONS: dict[str, Any] = {
    "LSTM": fastrnn.onnx.lstm,
    "GRU": fastrnn.onnx.gru,
    "RNN": fastrnn.onnx.rnn,
}


def by_function(case: Case) -> dict[str, Any]:
    results = FUNCTIONS[case.op](**case.inputs, **case.attributes)
    return dict(zip(("Y", "Y_h", "Y_c"), results, strict=False))


def feeds(case: Case) -> dict[str, Any]:
    return {name: a for name, a in case.inputs.items() if name not in "WRBP"}


@pytest.mark.parametrize("part", range(8))
def test_every_option_agrees_with_the_reference(part: int) -> None:
    for case in CASES[part::8]:
        found, expected = by_function(case), reference_of(case)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name].dtype == case.dtype
            what = f"{name} of {case.description}"
            assert_close(found[name], value, case.dtype, "forward", case.steps, name=what)


def test_a_node_of_a_model_gives_the_bits_of_the_function() -> None:
    for case in CASES[::4]:
        found, expected = fastrnn.onnx.run(model(case), feeds(case)), by_function(case)
        assert list(found) == [name for name in case.outputs if name]
        for name, value in found.items():
            np.testing.assert_array_equal(value, expected[name], case.description)


def test_weights_that_are_inputs_of_the_model_give_the_same() -> None:
    for case in CASES[::16]:
        found = fastrnn.onnx.run(model(case, constants=()), case.inputs)
        for name, value in found.items():
            np.testing.assert_array_equal(value, by_function(case)[name], case.description)


def by_onnxruntime_if_it_can(case: Case) -> dict[str, Any] | None:
    try:
        return by_onnxruntime(model(case), feeds(case))
    except Exception as error:
        if re.search(r"not support double|not find an implementation for RNN\(", str(error)):
            return None
        raise AssertionError(case.description) from error


def test_every_option_agrees_with_onnx_runtime_wherever_it_runs() -> None:
    ran: Counter[str] = Counter()
    for case in CASES:
        theirs_case = as_onnxruntime_has_it(case)
        if case.dtype.name == "bfloat16":
            continue  # it has no kernel, nor opset 22
        theirs = by_onnxruntime_if_it_can(theirs_case)
        if theirs is None:
            assert case.dtype.name != "float32", case.description
            continue
        ran[case.op] += 1
        ours = by_function(case)
        for name, value in theirs.items():
            mine = ours[name]
            if case.batch_first:
                mine = mine.transpose(1, 2, 0, 3) if name == "Y" else mine.swapaxes(0, 1)
            if name != "Y" and "sequence_lens" in case.inputs:
                # of a row of length 0 it returns zeros, not the initial state
                rows = case.inputs["sequence_lens"] > 0
                mine, value = mine[:, rows], value[:, rows]
            what = f"{name} of {case.description}"
            assert_close(mine, value, case.dtype, "forward", case.steps, name=what)
    assert min(ran.values()) > 70
    assert ran.total() > 270


def test_the_matrix_has_everything() -> None:
    seen: Counter[Any] = Counter()
    for case in CASES:
        attributes = case.attributes
        seen[case.op, attributes.get("direction", "forward"), attributes.get("layout", 0)] += 1
        seen[case.op, case.dtype.name] += 1
        seen.update((case.op, name) for name in [*attributes, *case.inputs])
        seen.update(name.title() for name in attributes.get("activations", ()))
        seen[case.opset] += 1
    for op in FUNCTIONS:
        own = {"LSTM": ["input_forget", "initial_c", "P"], "GRU": ["linear_before_reset"]}
        shared = ["clip", "activations", "B", "sequence_lens", "initial_h", *DTYPES]
        for name in [*shared, *own.get(op, [])]:
            assert seen[op, name] >= 10, (op, name)
        for direction in ("forward", "reverse", "bidirectional"):
            for layout in (0, 1):
                assert seen[op, direction, layout] >= 5, (op, direction, layout)
    assert all(seen[name.title()] >= 5 for name in ACTIVATIONS)
    assert all(seen[opset] >= 10 for opset in (7, 11, 13, 14, 17, 21, 22))


DEFAULTS: dict[str, tuple[float, ...]] = {
    "LeakyRelu": (0.01,),
    "HardSigmoid": (0.2, 0.5),
    "Elu": (1.0,),
    "ThresholdedRelu": (1.0,),
    "Affine": (1.0, 0.0),
    "ScaledTanh": (1.0, 1.0),
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_numbers_that_are_not_given_are_those_of_the_activation_s_operator(name: str) -> None:
    case = next(c for c in CASES if c.op == "GRU" and c.dtype == np.float32 and not c.batch_first)
    inputs = {n: a for n, a in case.inputs.items() if n != "sequence_lens"}
    attributes = {
        "hidden_size": case.inputs["R"].shape[2],
        "activations": ["Sigmoid", name] * len(case.weights),
        "direction": case.attributes.get("direction", "forward"),
    }
    case = replace(case, attributes=attributes, inputs=inputs, opset=14)
    found = by_function(case)
    numbers = zip(("activation_alpha", "activation_beta"), DEFAULTS[name], strict=False)
    given = {key: [number] * len(case.weights) for key, number in numbers}
    stated = by_function(replace(case, attributes=attributes | given))
    for output, value in found.items():
        np.testing.assert_array_equal(value, stated[output])
    if name in ("Affine", "ScaledTanh", "ThresholdedRelu"):
        return  # ONNX Runtime takes 0 for all of them, against the specification
    for output, value in by_onnxruntime(model(case), feeds(case)).items():
        assert_close(found[output], value, "float32", "forward", case.steps, name=output)


def arrays(T: int = 3, B: int = 2, I: int = 4, H: int = 5, dtype: Any = np.float32) -> Any:
    rng = np.random.default_rng(0)
    shapes = {"X": (T, B, I), "W": (1, 4 * H, I), "R": (1, 4 * H, H), "B": (1, 8 * H)}
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"direction": "sideways"}, ValueError, "'direction' must be forward, reverse or bidirec"),
        ({"layout": 2}, ValueError, "'layout' must be 0 or 1, got 2"),
        ({"clip": -1.0}, ValueError, "'clip' must be a number above 0, got -1.0"),
        ({"clip": float("nan")}, ValueError, "'clip' must be a number above 0, got nan"),
        ({"hidden_size": 6}, ValueError, r"'hidden_size' is 6, but R has shape \(1, 20, 5\)"),
        ({"linear_before_reset": 1}, ValueError, "'linear_before_reset' is not supported; it has"),
        ({"activations": ["Tanh"]}, ValueError, "must hold 3 a direction, 3 in all, got 1: Tanh"),
        ({"activations": ["Gelu", "Tanh", "Tanh"]}, ValueError, "'Gelu' is not supported; there"),
        (
            {"activations": ["Elu", "Tanh", "Tanh"], "activation_alpha": [1.0, 2.0]},
            ValueError,
            "'activation_alpha' must hold one number .*, 1 here, got 2",
        ),
        ({"X": np.zeros((3, 2, 9), np.float32)}, ValueError, r"= \(any, any, 4\).*\(3, 2, 9\)"),
        ({"X": np.zeros((3, 2, 4))}, TypeError, "X must be float32 as W is, got float64"),
        ({"W": np.zeros((1, 20, 4), int)}, TypeError, "W must be one of float16, .* got int64"),
        ({"W": np.zeros((20, 4), np.float32)}, ValueError, r"W must have three axes.*\(20, 4\)"),
        (
            {"W": np.zeros((1, 16, 4), np.float32)},
            ValueError,
            r"\(1, 20, 4\), as R of shape \(1, 20, 5\) says; got shape \(1, 16, 4\)",
        ),
        (
            {"direction": "bidirectional"},
            ValueError,
            r"W must be \(num_directions, .*\(2, 20, 4\).* got shape \(1, 20, 4\)",
        ),
        ({"B": np.zeros((1, 20), np.float32)}, ValueError, r"\(1, 40\), as R .* shape \(1, 20\)"),
        ({"P": np.zeros((1, 20), np.float32)}, ValueError, r"\(1, 15\), as R .* shape \(1, 20\)"),
        ({"sequence_lens": np.array([4, 1])}, ValueError, "in 0 to seq_length = 3, got 1 to 4"),
        ({"sequence_lens": np.array([1])}, ValueError, r"\(batch,\) = \(2,\), got shape \(1,\)"),
        ({"sequence_lens": np.array([1.0, 1])}, TypeError, "must be ints, got float64"),
        (
            {"initial_c": np.zeros((2, 1, 5), np.float32)},
            ValueError,
            r"initial_c must be .* = \(1, 2, 5\), got shape \(2, 1, 5\)",
        ),
    ],
)
def test_bad_arguments_are_named(change: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^fastrnn.onnx.lstm: .*{message}"):
        fastrnn.onnx.lstm(**{**arrays(), **change})


@pytest.mark.parametrize("name", DTYPES)
def test_no_steps_and_no_rows(name: str) -> None:
    h0 = np.ones((1, 2, 5), dtype_of(name))
    Y, Y_h, Y_c = fastrnn.onnx.lstm(**arrays(T=0, dtype=dtype_of(name)), initial_h=h0)
    assert Y.shape == (0, 1, 2, 5)
    np.testing.assert_array_equal(Y_h, h0)
    assert not Y_c.any()
    Y, Y_h, _ = fastrnn.onnx.lstm(**arrays(B=0, dtype=dtype_of(name)))
    assert (Y.shape, Y_h.shape) == ((3, 1, 0, 5), (1, 0, 5))
