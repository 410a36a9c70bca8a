from __future__ import annotations

import re

import numpy as np
import pytest
from shapes import CELLS, GATES, functions, make_case

import fastrnn

T, B, I, H = 4, 3, 5, 6
F32 = np.float32


def zeros(*shape, dtype=F32):
    return np.zeros(shape, dtype)


# change to the arguments of a forward call, error, words of the message; {GH} is gates times H
FORWARD = {
    "x_list": (
        {"x": [[[1.0]]]},
        TypeError,
        "argument 'x' must be a NumPy array or speak DLPack, got list",
    ),
    "x_none": ({"x": None}, TypeError, "argument 'x' must be an array, got None"),
    "x_int": (
        {"x": zeros(T, B, I, dtype=np.int64)},
        TypeError,
        "'x' must be of dtype float32 or float64.*got int64",
    ),
    "x_half": (
        {"x": zeros(T, B, I, dtype=np.float16)},
        TypeError,
        "'x' must be of dtype float32.*got float16",
    ),
    "x_complex": (
        {"x": zeros(T, B, I, dtype=np.complex64)},
        TypeError,
        "'x' must be of dtype.*got complex64",
    ),
    "x_object": (
        {"x": zeros(T, B, I, dtype=object)},
        TypeError,
        "'x' must be of dtype.*got object",
    ),
    "x_string": ({"x": zeros(T, B, I, dtype="U3")}, TypeError, "'x' must be of dtype.*got <U3"),
    "x_bool": (
        {"x": zeros(T, B, I, dtype=bool)},
        TypeError,
        "'x' must be of dtype float32 or float64, got bool",
    ),
    "x_big_endian": (
        {"x": zeros(T, B, I, dtype=">f4")},
        TypeError,
        "'x' must be of dtype.*got >f4",
    ),
    "x_scalar": (
        {"x": np.array(F32(1))},
        ValueError,
        r"'x' must be of shape \(T, B, I\), got shape \(\)",
    ),
    "x_two_axes": (
        {"x": zeros(T, I)},
        ValueError,
        r"'x' must be of shape \(T, B, I\), got shape \(4, 5\)",
    ),
    "x_four_axes": (
        {"x": zeros(1, T, B, I)},
        ValueError,
        r"'x' must be of shape \(T, B, I\), got shape \(1, 4, 3,",
    ),
    "x_no_input": (
        {"x": zeros(T, B, 0), "w_ih": zeros(0, 0)},
        ValueError,
        r"'x' must be I >= 1, got shape \(4, 3, 0\)",
    ),
    "w_ih_none": ({"w_ih": None}, TypeError, "argument 'w_ih' must be an array, got None"),
    "w_ih_rows": (
        {"w_ih": zeros(7, I)},
        ValueError,
        r"'w_ih' must be of shape \({G}H, I\) = \({GH}, 5\), got .*\(7, 5\)",
    ),
    "w_ih_columns": (
        {"w_ih": zeros(6, I + 1)},
        ValueError,
        r"'w_ih' must be of shape .* = \({GH}, 5\), got shape \(6, 6\)",
    ),
    "w_ih_axes": (
        {"w_ih": zeros(6)},
        ValueError,
        r"'w_ih' must be of shape \({G}H, I\).*got shape \(6,\)",
    ),
    "w_ih_dtype": (
        {"w_ih": zeros(6, I, dtype=np.float64)},
        TypeError,
        "'w_ih' must be of dtype float32 as x is, got float64",
    ),
    "w_hh_none": ({"w_hh": None}, TypeError, "argument 'w_hh' must be an array, got None"),
    "w_hh_axes": (
        {"w_hh": zeros(6)},
        ValueError,
        r"'w_hh' must be of shape \({G}H, H\), got shape \(6,\)",
    ),
    "w_hh_rows": (
        {"w_hh": zeros(5, H)},
        ValueError,
        r"'w_(i|h)h' must be of shape \({G}H, (I|H)\) = \({GH}, .\), got",
    ),
    "w_hh_empty": ({"w_hh": zeros(0, 0)}, ValueError, r"'w_hh' must be H >= 1, got shape \(0, 0\)"),
    "w_hh_dtype": (
        {"w_hh": zeros(6, H, dtype=np.float64)},
        TypeError,
        "'w_hh' must be of dtype float32 as x is",
    ),
    "b_ih_shape": (
        {"b_ih": zeros(5)},
        ValueError,
        r"'b_ih' must be of shape \({G}H,\) = \({GH},\), got shape \(5,\)",
    ),
    "b_ih_axes": (
        {"b_ih": zeros(6, 1)},
        ValueError,
        r"'b_ih' must be of shape .*got shape \(6, 1\)",
    ),
    "b_hh_dtype": (
        {"b_hh": zeros(6, dtype=np.float64)},
        TypeError,
        "'b_hh' must be of dtype float32 as x is, got float64",
    ),
    "h0_shape": (
        {"h0": zeros(B, H + 1)},
        ValueError,
        r"'h0' must be of shape \(B, H\) = \(3, 6\), got shape \(3, 7\)",
    ),
    "h0_layers": (
        {"h0": zeros(1, B, H)},
        ValueError,
        r"'h0' must be of shape \(B, H\).*got shape \(1, 3, 6\)",
    ),
    "h0_dtype": (
        {"h0": zeros(B, H, dtype=np.float64)},
        TypeError,
        "'h0' must be of dtype float32 as x is",
    ),
    "lengths_size": (
        {"lengths": [1, 2]},
        ValueError,
        r"'lengths' must be of shape \(B,\) = \(3,\), got shape \(2,\)",
    ),
    "lengths_axes": (
        {"lengths": [[1, 2, 3]]},
        ValueError,
        r"'lengths' must be of shape \(B,\).*got shape \(1, 3\)",
    ),
    "lengths_negative": (
        {"lengths": [1, -1, 2]},
        ValueError,
        r"'lengths' must be between 0 and T = 4, got lengths\[1\] = -1",
    ),
    "lengths_long": (
        {"lengths": [1, 2, 5]},
        ValueError,
        r"'lengths' must be between 0 and T = 4, got lengths\[2\] = 5",
    ),
    "lengths_huge": (
        {"lengths": np.array([2**64 - 1, 1, 1], np.uint64)},
        ValueError,
        "'lengths' must be between 0 and T",
    ),
    "lengths_float": (
        {"lengths": [1.0, 2.0, 3.0]},
        TypeError,
        "'lengths' must be of an integer dtype, got float64",
    ),
    "lengths_bool": (
        {"lengths": [True, False, True]},
        TypeError,
        "'lengths' must be of an integer dtype, got bool",
    ),
    "lengths_words": (
        {"lengths": ["a", "b", "c"]},
        TypeError,
        "'lengths' must be of an integer dtype, got <U1",
    ),
    "mask_shape": (
        {"mask": zeros(B, T, dtype=bool)},
        ValueError,
        r"'mask' must be of shape \(T, B\) = \(4, 3\), got .*\(3, 4\)",
    ),
    "mask_dtype": ({"mask": zeros(T, B)}, TypeError, "'mask' must be of dtype bool, got float32"),
    "mask_list": (
        {"mask": [[True]]},
        TypeError,
        "'mask' must be a NumPy array or speak DLPack, got list",
    ),
    "reset_shape": (
        {"reset": zeros(T, dtype=bool)},
        ValueError,
        r"'reset' must be of shape \(T, B\).*got shape \(4,\)",
    ),
    "reset_dtype": (
        {"reset": zeros(T, B, dtype=np.int8)},
        TypeError,
        "'reset' must be of dtype bool, got int8",
    ),
    "batch_first": (
        {"batch_first": True, "mask": zeros(B, T, dtype=bool)},
        ValueError,
        r"'mask' must be of shape \(B, T\) = \(4, 3\)",
    ),
    "backend_unknown": (
        {"backend": "sse9"},
        ValueError,
        "backend must be one of .*scalar; got 'sse9'",
    ),
    "backend_type": ({"backend": 3}, TypeError, "incompatible function arguments"),
}


def message_of(pattern, cell):
    gates = GATES[cell]
    return pattern.replace("{G}", "" if gates == 1 else rf"{gates}\*").replace(
        "{GH}", str(gates * H)
    )


@pytest.mark.parametrize("row", FORWARD)
@pytest.mark.parametrize("cell", CELLS)
def test_forward_names_what_is_wrong(cell, row):
    change, error, words = FORWARD[row]
    case = make_case(cell, T, B, I, H, F32)
    forward, _, _ = functions(fastrnn, cell)
    with pytest.raises(error, match=message_of(words, cell)) as caught:
        forward(**{**case.inputs, **change})
    if "incompatible" not in words and "backend" not in row:
        assert str(caught.value).startswith(cell.split("_")[0] + "_forward: ")


@pytest.mark.parametrize(
    "shape", [(2**30, 2**28, 1), (2**50, 2**6, 1), (2**57, 1, 1), (1, 2**57, 1)], ids=str
)
def test_sizes_beyond_the_address_space_are_refused_before_allocation(shape):
    x = np.broadcast_to(F32(0), shape)
    with pytest.raises(
        ValueError, match=r"lstm_forward: argument 'x' must be small enough .* got T = "
    ):
        fastrnn.lstm_forward(x, zeros(4 * H, shape[2]), zeros(4 * H, H))


def test_results_that_do_not_fit_in_memory_are_a_memory_error():
    x = np.broadcast_to(F32(0), (2**40, 8, 1))
    with pytest.raises(MemoryError):
        fastrnn.lstm_forward(x, zeros(4 * H, 1), zeros(4 * H, H))


BACKWARD = {
    "saved_none": (
        {"saved": None},
        TypeError,
        "argument 'saved' must be what a forward call .* returned, got NoneType",
    ),
    "saved_tuple": (
        {"saved": (1, 2)},
        TypeError,
        "argument 'saved' must be what a forward call .* returned, got tuple",
    ),
    "dy_list": (
        {"dy": [1.0]},
        TypeError,
        "argument 'dy' must be a NumPy array or speak DLPack, got list",
    ),
    "dy_shape": (
        {"dy": zeros(T, B, H + 1)},
        ValueError,
        r"'dy' must be of shape \(T, B, H\) = \(4, 3, 6\), got .*\(4, 3, 7\)",
    ),
    "dy_axes": (
        {"dy": zeros(T, B)},
        ValueError,
        r"'dy' must be of shape \(T, B, H\).*got shape \(4, 3\)",
    ),
    "dy_dtype": (
        {"dy": zeros(T, B, H, dtype=np.float64)},
        TypeError,
        "'dy' must be of dtype float32 as x is, got float64",
    ),
    "dh_n_shape": (
        {"dh_n": zeros(B, 1)},
        ValueError,
        r"'dh_n' must be of shape \(B, H\) = \(3, 6\), got shape \(3, 1\)",
    ),
    "dh_n_dtype": (
        {"dh_n": zeros(B, H, dtype=np.float64)},
        TypeError,
        "'dh_n' must be of dtype float32 as x is",
    ),
}


@pytest.mark.parametrize("row", BACKWARD)
@pytest.mark.parametrize("cell", CELLS)
def test_backward_names_what_is_wrong(cell, row):
    change, error, words = BACKWARD[row]
    case = make_case(cell, T, B, I, H, F32)
    forward, backward, _ = functions(fastrnn, cell)
    arguments = {"saved": forward(**case.inputs)[2], "dy": case.cotangents["dy"], **change}
    with pytest.raises(error, match=words):
        backward(**arguments)


def test_lstm_states_are_checked_too():
    case = make_case("lstm", T, B, I, H, F32)
    with pytest.raises(
        ValueError, match=r"'c0' must be of shape \(B, H\) = \(3, 6\), got shape \(2, 6\)"
    ):
        fastrnn.lstm_forward(**{**case.inputs, "c0": zeros(2, H)})
    saved = fastrnn.lstm_forward(**case.inputs)[2]
    with pytest.raises(
        ValueError, match=r"'dc_n' must be of shape \(B, H\) = \(3, 6\), got shape \(2, 6\)"
    ):
        fastrnn.lstm_backward(saved, None, None, zeros(2, H))


def test_saved_of_another_cell_is_refused():
    case = make_case("gru", T, B, I, H, F32)
    saved = fastrnn.gru_forward(**case.inputs)[2]
    with pytest.raises(
        TypeError,
        match="'saved' must come from the forward function of the same cell, got one of gru_f",
    ):
        fastrnn.lstm_backward(saved, case.cotangents["dy"])


STEP = {
    "x_axes": (
        {"x": zeros(1, B, I)},
        ValueError,
        r"'x' must be of shape \(B, I\), got shape \(1, 3, 5\)",
    ),
    "x_dtype": (
        {"x": zeros(B, I, dtype=np.int32)},
        TypeError,
        "'x' must be of dtype float32.*got int32",
    ),
    "h_shape": (
        {"h": zeros(B, H + 1)},
        ValueError,
        r"'h' must be of shape \(B, H\) = \(3, 6\), got shape \(3, 7\)",
    ),
    "w_hh_rows": (
        {"w_hh": zeros(7, H)},
        ValueError,
        r"'w_hh' must be of shape \(3\*H, H\) = \(18, 6\), got shape \(7, 6\)",
    ),
}


@pytest.mark.parametrize("row", STEP)
def test_step_names_what_is_wrong(row):
    change, error, words = STEP[row]
    arguments = {
        "x": zeros(B, I),
        "h": zeros(B, H),
        "w_ih": zeros(3 * H, I),
        "w_hh": zeros(3 * H, H),
    }
    with pytest.raises(error, match="gru_step: argument " + words):
        fastrnn.gru_step(**{**arguments, **change})


def test_unknown_nonlinearity():
    with pytest.raises(
        ValueError,
        match="rnn_forward: argument 'nonlinearity' must be 'tanh' or 'relu', got 'gelu'",
    ):
        fastrnn.rnn_forward(zeros(T, B, I), zeros(H, I), zeros(H, H), nonlinearity="gelu")


@pytest.mark.parametrize("n", [0, -3])
def test_thread_counts_below_one(n):
    with pytest.raises(ValueError, match=f"set_num_threads: argument 'n' must be >= 1, got {n}"):
        fastrnn.set_num_threads(n)


def test_a_forced_backend_that_does_not_exist_is_an_error(monkeypatch):
    monkeypatch.setenv("FASTRNN_BACKEND", "altivec")
    with pytest.raises(ValueError, match=re.escape("FASTRNN_BACKEND must be one of")):
        fastrnn.lstm_forward(zeros(T, B, I), zeros(4 * H, I), zeros(4 * H, H))
    y, _, saved = fastrnn.lstm_forward(
        zeros(T, B, I), zeros(4 * H, I), zeros(4 * H, H), backend="scalar"
    )
    assert saved.backend == "scalar"
    assert y.shape == (T, B, H)


def test_the_environment_chooses_the_backend(monkeypatch):
    for name in fastrnn.backends():
        monkeypatch.setenv("FASTRNN_BACKEND", name)
        assert (
            fastrnn.lstm_forward(zeros(T, B, I), zeros(4 * H, I), zeros(4 * H, H))[2].backend
            == name
        )
