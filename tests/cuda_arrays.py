"""Arrays on a CUDA device through the whole interface: run by tests/test_cuda_arrays.py with a
module whose CUDA backend runs on the host.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fake_cuda import STREAM, Array
from family import EVERY_ONE, Case, alone, assert_agrees, combination
from shapes import CELLS, FEATURES, as_states, functions, make_case
from test_family import (
    test_step_by_step_gives_the_bits_of_the_whole as step_by_step_gives_the_bits_of_the_whole,
)
from tolerances import assert_close

import fastrnn
from fastrnn import reference


def on_device(inputs: dict[str, Any], **options: Any) -> dict[str, Any]:
    """The arrays of a call on the device, but lengths, which stay on the host."""
    return {
        name: Array(value, **options)
        if isinstance(value, np.ndarray) and name != "lengths"
        else value
        for name, value in inputs.items()
    }


def on_host(value: Any) -> Any:
    return None if value is None else value.data


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("cell", CELLS)
def test_arrays_on_a_device_match_the_reference(cell: str, dtype: type, feature: str) -> None:
    case = make_case(cell, 7, 4, 6, 9, dtype, seed=2, **FEATURES[feature])
    forward, backward, _ = functions(fastrnn, cell)
    ref_forward, ref_backward, _ = functions(reference, cell)
    y, state, saved = forward(**on_device(case.inputs))
    ref_y, ref_state, ref_saved = ref_forward(**case.inputs)
    assert saved.backend == "cuda"
    assert type(y) is Array
    assert_close(on_host(y), ref_y, dtype, "forward", name="y")
    for got, expected in zip(as_states(state), as_states(ref_state), strict=True):
        assert_close(on_host(got), expected, dtype, "forward", name="state")
    gradients = backward(saved, **on_device(case.cotangents))
    expected_gradients = ref_backward(ref_saved, **case.cotangents)
    for name in gradients._fields:
        got, expected = getattr(gradients, name), getattr(expected_gradients, name)
        assert_close(on_host(got), expected, dtype, "gradient", name=name)


@pytest.mark.parametrize("cell", CELLS)
def test_float16_is_computed_in_float32_and_c_stays_in_it(cell: str) -> None:
    case = make_case(cell, 5, 3, 6, 9, np.float16, seed=3)
    inputs = {name: value for name, value in case.inputs.items() if name != "c0"}
    forward, backward, _ = functions(fastrnn, cell)
    y, state, saved = forward(**on_device(inputs))
    ref_y, *_ = functions(reference, cell)[0](**inputs)
    assert y.dtype == np.float16
    assert np.abs(on_host(y) - ref_y).max() < 2e-3
    dtypes = [on_host(s).dtype for s in as_states(state)]
    assert dtypes == [np.float16, np.float32][: len(dtypes)]
    assert on_host(backward(saved, y).dw_hh).dtype == np.float16


def test_bfloat16_comes_back_as_such() -> None:
    ones = np.full((3, 2, 4), 0x3F80, np.uint16)
    weights = np.zeros((16, 4), np.uint16)
    x, w = (Array(bits, bfloat16=True) for bits in (ones, weights))
    y, (h, c), _ = fastrnn.lstm_forward(x, w, w)
    assert y.dtype == h.dtype == "bfloat16"
    assert c.dtype == np.float32
    assert not on_host(y).any()


def test_every_array_is_asked_for_on_the_stream_of_its_framework() -> None:
    case = make_case("gru", 3, 2, 4, 5, np.float32)
    inputs = on_device(case.inputs)
    fastrnn.gru_forward(**inputs)
    for name, array in inputs.items():
        if isinstance(array, Array):
            assert set(array.streams) == {STREAM}, name


def test_a_framework_that_hides_its_stream_gets_the_default_one() -> None:
    case = make_case("gru", 3, 2, 4, 5, np.float32)
    inputs = on_device(case.inputs, cupy=False)
    y, _, _ = fastrnn.gru_forward(**inputs)
    assert set(inputs["x"].streams) == {1}
    assert_close(on_host(y), reference.gru_forward(**case.inputs)[0], np.float32, "forward")


def test_lengths_and_flags_may_lie_on_the_device() -> None:
    case = make_case("lstm", 6, 4, 3, 5, np.float32, lengths=True)
    expected, *_ = fastrnn.lstm_forward(**case.inputs, backend="cuda")
    lengths = Array(np.asarray(case.inputs["lengths"], np.int64))
    y, *_ = fastrnn.lstm_forward(
        **on_device(case.inputs | {"lengths": None}) | {"lengths": lengths}
    )
    assert np.array_equal(on_host(y), expected)


def test_lengths_on_the_device_that_are_out_of_range_count_as_the_nearest() -> None:
    case = make_case("lstm", 6, 3, 3, 5, np.float32)
    inputs = on_device(case.inputs)
    wild, *_ = fastrnn.lstm_forward(**inputs, lengths=Array(np.array([-5, 2**62, 4])))
    tame, *_ = fastrnn.lstm_forward(**inputs, lengths=Array(np.array([0, 6, 4])))
    assert np.array_equal(on_host(wild), on_host(tame))


def test_strided_arrays_give_the_bits_of_packed_ones() -> None:
    case = make_case("lstm", 6, 4, 3, 5, np.float32)
    expected, *_ = fastrnn.lstm_forward(**on_device(case.inputs))
    x = np.repeat(case.inputs["x"], 2, axis=2)[::1, :, ::2]  # no unit stride on the last axis
    w_hh = np.asfortranarray(case.inputs["w_hh"])
    y, *_ = fastrnn.lstm_forward(**on_device(case.inputs | {"x": x, "w_hh": w_hh}))
    assert np.array_equal(on_host(y), on_host(expected))


@pytest.mark.parametrize("name", ["w_ih", "w_hh", "b_ih", "h0", "mask"])
def test_an_array_elsewhere_is_refused_by_name(name: str) -> None:
    case = make_case("gru", 3, 2, 4, 5, np.float32, **FEATURES["all"])
    message = rf"gru_forward: argument '{name}' must be on cuda:0 as x is.*, got (ndarray|the CPU)"
    with pytest.raises(TypeError, match=message):
        fastrnn.gru_forward(**on_device(case.inputs) | {name: case.inputs[name]})
    message = f"gru_forward: argument '{name}' must be on cuda:0 as x is, got cuda:1"
    with pytest.raises(TypeError, match=message):
        fastrnn.gru_forward(**on_device(case.inputs) | {name: Array(case.inputs[name], device=1)})
    if name != "mask":
        message = f"gru_forward: argument '{name}' must be on the CPU as x is, got cuda:0"
        with pytest.raises(TypeError, match=message):
            fastrnn.gru_forward(**case.inputs | {name: Array(case.inputs[name])})


@pytest.mark.parametrize("name", ["peephole", "w_hr", "dc", "dgates"])
def test_an_option_elsewhere_is_refused_by_name(name: str) -> None:
    feature = {"peephole": "peephole", "w_hr": "projection", "dc": "cell_clip", "dgates": "gates"}[
        name
    ]
    case = alone("lstm", feature, np.float32)
    inputs, cotangents = on_device(case.inputs), on_device(case.cotangents)
    elsewhere = Array(np.zeros((5, 4, 7), np.float32), device=1) if name == "dc" else None
    if name in inputs:
        inputs[name] = Array(case.inputs[name], device=1)
    else:
        cotangents[name] = elsewhere or Array(case.cotangents[name], device=1)
    message = f"lstm_(for|back)ward: argument '{name}' must be on cuda:0 as x is, got cuda:1"
    with pytest.raises(TypeError, match=message):
        replace(case, inputs=inputs, cotangents=cotangents).run(fastrnn)


def test_another_backend_is_refused() -> None:
    case = make_case("gru", 3, 2, 4, 5, np.float32)
    message = "argument 'backend' must be cuda for arrays on cuda:0, got scalar"
    with pytest.raises(ValueError, match=message):
        fastrnn.gru_forward(**on_device(case.inputs), backend="scalar")


def test_a_step_gives_the_bits_of_the_sequence() -> None:
    case = make_case("lstm", 4, 3, 5, 6, np.float32, **FEATURES["state"])
    inputs = on_device(case.inputs)
    y, *_ = fastrnn.lstm_forward(**inputs, save=False)
    weights = [inputs[name] for name in ("w_ih", "w_hh", "b_ih", "b_hh")]
    state = (inputs["h0"], inputs["c0"])
    for t in range(4):
        state = fastrnn.lstm_step(Array(case.inputs["x"][t]), state, *weights)
        assert np.array_equal(on_host(state[0]), on_host(y)[t])


@pytest.mark.parametrize(("T", "B"), [(70, 940), (65_537, 1)])
def test_more_than_65535_rows_or_steps_match_the_cpu(T: int, B: int) -> None:
    """Which tests/test_kernels.py compares with the reference there; that takes long."""
    case = make_case("gru", T, B, 2, 3, np.float64, seed=1, **FEATURES["state"])
    y, _, saved = fastrnn.gru_forward(**on_device(case.inputs))
    expected, _, expected_saved = fastrnn.gru_forward(**case.inputs, backend="scalar")
    assert_close(on_host(y), expected, np.float64, "forward", T, name="y")
    gradients = fastrnn.gru_backward(saved, **on_device(case.cotangents))
    expected_gradients = fastrnn.gru_backward(expected_saved, **case.cotangents)
    for name, value in zip(gradients._fields, expected_gradients, strict=True):
        got = on_host(getattr(gradients, name))
        assert_close(got, value, np.float64, "gradient", T, name=name)


# -------------------------------------------------------------------------------- the family


def check(case: Case) -> None:
    def of_reference(given: Case) -> dict[str, Any]:
        return given.results(reference)

    got = case.results(fastrnn, backend="cuda")
    assert_agrees(got, of_reference(case), of_reference, (case,), "", case.name)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("cell", "feature"), EVERY_ONE, ids=["-".join(e) for e in EVERY_ONE])
def test_each_option_matches_the_reference(cell: str, feature: str, dtype: type) -> None:
    for H in (7, 33):
        check(alone(cell, feature, dtype, seed=H, H=H))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_combinations_of_options_match_the_reference(dtype: type) -> None:
    for seed in range(60):
        check(combination(seed, dtype))


@pytest.mark.exhaustive
@pytest.mark.parametrize("part", range(8))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_combination_of_options_matches_the_reference(dtype: type, part: int) -> None:
    for seed in range(60 + part, 1000, 8):
        check(combination(seed, dtype))


def test_options_of_a_call_on_the_device_match_those_of_one_on_the_host() -> None:
    case = combination(5, np.float32)
    forward = getattr(fastrnn, f"{case.family}_forward")
    expected, *_ = forward(**case.inputs, backend="cuda")
    y, *_ = forward(**on_device(case.inputs))
    assert np.array_equal(on_host(y), expected)


@pytest.mark.parametrize(("cell", "feature"), EVERY_ONE, ids=["-".join(e) for e in EVERY_ONE])
def test_each_option_in_float16_matches_the_reference(cell: str, feature: str) -> None:
    # of a seed for which rounding puts no value on the other side of a clip, where slopes jump
    case = alone(cell, feature, np.float16, seed=3, H=17)
    float32 = {
        name: group[name].astype(np.float32)
        for group in (case.inputs, case.cotangents)
        for name in {"c0", "dc", "dc_n"} & group.keys()
    }
    inputs = {name: float32.get(name, value) for name, value in case.inputs.items()}
    cotangents = {name: float32.get(name, value) for name, value in case.cotangents.items()}
    if "layer_norm" in inputs:
        norm = inputs["layer_norm"]
        inputs["layer_norm"] = norm._replace(**on_device(norm._asdict()))
    named, gradients = replace(
        case, inputs=on_device(inputs), cotangents=on_device(cotangents)
    ).run(fastrnn)
    expected, expected_gradients = case.run(reference)
    for name, value in expected.items():
        difference = np.abs(on_host(named[name]) - value).max()
        assert difference <= 1e-2 * np.abs(value).max(), name
    for name, value in zip(gradients._fields, expected_gradients, strict=True):
        if value is not None:
            difference = np.abs(on_host(getattr(gradients, name)) - value).max()
            assert difference <= 1e-2 * np.abs(value).max(), name


@pytest.mark.parametrize(("cell", "feature"), EVERY_ONE, ids=["-".join(e) for e in EVERY_ONE])
def test_steps_with_an_option_give_the_bits_of_the_sequence(cell: str, feature: str) -> None:
    step_by_step_gives_the_bits_of_the_whole(cell, feature, "cuda")


def shown_masks(backend: str, option: str) -> Any:
    """y (T, B, H) of a layer whose values are those of its masks: h = relu(W_hh h')."""
    H = 37
    zeros, one = np.zeros((3, H, 1), np.float32), np.eye(H, dtype=np.float32)
    w_hh, h0 = one, np.ones_like(one)
    if option == "weight_dropout":  # row b sees column b
        w_hh, h0 = h0, w_hh
    if option == "zoneout":
        w_hh = one / 2
    y, *_ = fastrnn.rnn_forward(
        *(zeros, zeros[0], w_hh),
        h0=h0,
        nonlinearity="relu",
        backend=backend,
        seed=2**40 + 3,
        **{option: 0.3},
    )
    return y if option != "weight_dropout" else y[:1]  # later steps are sums in some order


@pytest.mark.parametrize("option", ["zoneout", "recurrent_dropout", "weight_dropout"])
def test_chance_decides_as_on_the_cpu_bit_for_bit(option: str) -> None:
    ours, theirs = shown_masks("cuda", option), shown_masks("scalar", option)
    values, counts = np.unique(ours[0], return_counts=True)
    assert len(values) == 2
    assert 0.2 < counts.min() / counts.sum() < 0.4
    assert ours.tobytes() == theirs.tobytes()


PATH = "persistent" if "EMULATED_CAPABILITY" in os.environ else "steps"


def test_the_path_of_a_call_is_told() -> None:
    case = make_case("lstm", 8, 4, 6, 9, np.float32)
    *_, saved = fastrnn.lstm_forward(**on_device(case.inputs))
    path = fastrnn.cuda_path("lstm", T=8, B=4, H=9)
    assert saved.path == path.forward
    assert path.forward.startswith(f"{PATH}: ")
    assert path.backward.startswith(f"{PATH}: ")
    *_, saved = fastrnn.lstm_forward(**case.inputs)
    assert saved.path is None


def test_a_path_can_be_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTRNN_CUDA_PATH", "steps")
    assert fastrnn.cuda_path("gru", T=8, B=4, H=9) == ("steps: FASTRNN_CUDA_PATH says so",) * 2
    monkeypatch.setenv("FASTRNN_CUDA_PATH", "both")
    with pytest.raises(ValueError, match="FASTRNN_CUDA_PATH must be 'steps', or 'persistent'"):
        fastrnn.gru_forward(**on_device(make_case("gru", 3, 2, 4, 5, np.float32).inputs))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "int8"}, "argument 'dtype' must be float32, float64, float16 or bfloat16"),
        ({"T": -1}, "arguments 'T' and 'B' must not be negative"),
        ({"H": 0}, "'H' must be at least 1"),
        ({"cell": "lstn"}, "no cell is called 'lstn'"),
    ],
)
def test_sizes_of_no_call_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fastrnn.cuda_path(**{"cell": "gru", "T": 8, "B": 4, "H": 9} | arguments)
