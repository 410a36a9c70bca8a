"""Bad arguments raise, and the message names function, argument, what was wanted and what came."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from shapes import CELLS, as_states, functions, make_case

from fastrnn import reference

T, B, I, H = 5, 3, 4, 6


def zeros(*shape: int, dtype: Any = float) -> Any:
    return np.zeros(shape, dtype)


# One argument of lstm_forward each, what is wrong with it, and what the message says.
WRONG = {
    "x without batch": ("x", zeros(T, I), ValueError, r"x must have shape \(T, B, I\).*\(5, 4\)"),
    "x without inputs": ("x", zeros(T, B, 0), ValueError, r"x must have I > 0, got I = 0"),
    "x complex": ("x", zeros(T, B, I, dtype=complex), TypeError, "x must hold real.*complex128"),
    "x of objects": ("x", zeros(T, B, I, dtype=object), TypeError, "x must hold real.*object"),
    "x bool": ("x", zeros(T, B, I, dtype=bool), TypeError, "x must hold real.*bool"),
    "x of text": ("x", "abc", TypeError, "x must hold real"),
    "w_ih of other I": (
        "w_ih",
        zeros(24, 5),
        ValueError,
        r"w_ih must have shape \(4H, I\) = \(24, 4\), got \(24, 5\)",
    ),
    "w_ih rows not in fours": ("w_ih", zeros(22, I), ValueError, r"multiple of 4, got \(22, 4\)"),
    "w_ih empty": ("w_ih", zeros(0, I), ValueError, "w_ih must have H > 0, got H = 0"),
    "w_hh of other H": (
        "w_hh",
        zeros(24, 5),
        ValueError,
        r"w_hh must have shape \(4H, H\) = \(24, 6\), got \(24, 5\)",
    ),
    "b_ih of other H": (
        "b_ih",
        zeros(25),
        ValueError,
        r"b_ih must have shape \(4H,\) = \(24,\), got \(25,\)",
    ),
    "b_hh of a matrix": ("b_hh", zeros(1, 24), ValueError, r"b_hh must.*\(4H,\)"),
    "h0 of torch's shape": ("h0", zeros(1, B, H), ValueError, r"h0 must.*\(B, H\) = \(3, 6\)"),
    "c0 of other B": ("c0", zeros(2, H), ValueError, r"c0 must.*\(3, 6\), got \(2, 6\)"),
    "lengths of other B": ("lengths", [1, 2], ValueError, r"lengths must.*\(B,\) = \(3,\)"),
    "lengths negative": ("lengths", [1, -1, 2], ValueError, "between 0 and T = 5, got -1 to 2"),
    "lengths above T": ("lengths", [1, 6, 2], ValueError, "between 0 and T = 5, got 1 to 6"),
    "lengths float": ("lengths", [1.0, 2.0, 3.0], TypeError, "lengths must be integers.*float64"),
    "mask of ints": ("mask", zeros(T, B, dtype=int), TypeError, "mask must be bool, got.*int64"),
    "mask transposed": ("mask", zeros(B, T, dtype=bool), ValueError, r"mask must.*\(5, 3\)"),
    "reset of floats": ("reset", zeros(T, B), TypeError, "reset must be bool.*float64"),
    "reset of one row": ("reset", zeros(T, dtype=bool), ValueError, r"reset must.*\(T, B\)"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_argument_is_named(what: str) -> None:
    name, value, error, message = WRONG[what]
    case = make_case("lstm", T, B, I, H, state=True).with_inputs(**{name: value})
    with pytest.raises(error, match=f"^lstm_forward: .*{message}"):
        reference.lstm_forward(**case.inputs)


def test_x_of_more_than_64_bits_is_refused_rather_than_rounded() -> None:
    if np.finfo(np.longdouble).bits == 64:
        pytest.skip("long double is double here")
    case = make_case("gru", T, B, I, H)
    with pytest.raises(TypeError, match="gru_forward: x must hold real numbers of at most 64 bits"):
        reference.gru_forward(**{**case.inputs, "x": case.inputs["x"].astype(np.longdouble)})


def test_batch_first_is_named_in_the_wanted_shape() -> None:
    case = make_case("gru", T, B, I, H)
    with pytest.raises(ValueError, match=r"mask must have shape \(B, T\) = \(5, 3\), got \(3, 5\)"):
        reference.gru_forward(**case.inputs, batch_first=True, mask=zeros(B, T, dtype=bool))


@pytest.mark.parametrize("cell", CELLS)
def test_wrong_cotangent_is_named(cell: str) -> None:
    case = make_case(cell, T, B, I, H)
    forward, backward, _ = functions(reference, cell)
    saved = forward(**case.inputs)[2]
    function = f"{cell.split('_')[0]}_backward"
    for name in case.cotangents:
        message = rf"^{function}: {name} must have shape .*3, 6\), got \(2, 2\)"
        with pytest.raises(ValueError, match=message):
            backward(saved, **{**case.cotangents, name: zeros(2, 2)})


@pytest.mark.parametrize("cell", CELLS)
def test_step_names_its_own_arguments(cell: str) -> None:
    case = make_case(cell, T, B, I, H, state=True)
    x, weights = case.inputs["x"][0], [case.inputs[n] for n in ("w_ih", "w_hh", "b_ih", "b_hh")]
    h, c = case.inputs["h0"], zeros(B, H)
    step = functions(reference, cell).step
    function = f"{cell.split('_')[0]}_step"
    assert len(as_states(step(x, (h, c) if cell == "lstm" else h, *weights))) <= 2
    with pytest.raises(ValueError, match=rf"^{function}: x must have shape \(B, I\)"):
        step(case.inputs["x"], (h, c) if cell == "lstm" else h, *weights)
    with pytest.raises(ValueError, match=rf"^{function}: h must have shape \(B, H\) = \(3, 6\)"):
        step(x, (h[0], c) if cell == "lstm" else h[0], *weights)


def test_saved_of_another_cell_is_refused() -> None:
    case = make_case("gru", T, B, I, H)
    saved = reference.gru_forward(**case.inputs)[2]
    with pytest.raises(TypeError, match="lstm_backward: saved must be that of lstm_forward, got"):
        reference.lstm_backward(saved, None)
    with pytest.raises(TypeError, match="rnn_backward: saved must be that of rnn_forward, got"):
        reference.rnn_backward("saved", None)  # type: ignore[arg-type]


def test_unknown_nonlinearity_is_named() -> None:
    w_ih, w_hh = zeros(H, I), zeros(H, H)
    with pytest.raises(ValueError, match=r"^rnn_forward: nonlinearity .*'tanh' or 'relu'.*'gelu'"):
        reference.rnn_forward(zeros(T, B, I), w_ih, w_hh, nonlinearity="gelu")
    with pytest.raises(ValueError, match=r"^rnn_step: nonlinearity .*'tanh' or 'relu'.*'gelu'"):
        reference.rnn_step(zeros(B, I), zeros(B, H), w_ih, w_hh, nonlinearity="gelu")
