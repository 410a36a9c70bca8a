"""Every gradient of the reference, with every feature, against central differences in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from shapes import CELLS, FEATURES, Case, as_states, functions, make_case
from tolerances import assert_close, assert_gradients_close, tolerance

from fastrnn import reference

# Truncation, step^2 f'''/6, and rounding, 1e-16 f/step, are both near 1e-10.
STEP = 1e-5
SEED = 4  # keeps relus off their kinks; asserted below
ARGUMENTS = ("x", "w_ih", "w_hh", "b_ih", "b_hh", "h0", "c0")

every_case = pytest.mark.parametrize("feature", FEATURES)
every_cell = pytest.mark.parametrize("cell", CELLS)


def run(case: Case) -> tuple[Any, tuple[Any, ...], Any]:
    y, state, saved, *_ = functions(reference, case.cell).forward(**case.inputs)
    return y, as_states(state), saved


def gradients(case: Case) -> Any:
    return functions(reference, case.cell).backward(run(case)[2], **case.cotangents)


def loss(case: Case) -> tuple[float, Any]:
    """The function that the cotangents are the gradient of, and the signs of y."""
    y, state, _ = run(case)
    dy, *dstate = case.cotangents.values()
    return float(np.sum(dy * y) + sum(np.sum(d * s) for d, s in zip(dstate, state, strict=True))), (
        np.sign(y)
    )


def central_difference(case: Case, direction: dict[str, Any]) -> float:
    """The derivative of the loss along a direction in the space of some of the inputs."""
    ends = [
        loss(case.with_inputs(**{n: case.inputs[n] + s * d for n, d in direction.items()}))
        for s in (STEP, -STEP)
    ]
    (plus, sign_plus), (minus, sign_minus) = ends
    if case.cell == "rnn_relu":
        assert np.array_equal(sign_plus, sign_minus), "a relu's kink lies between: other seed"
    return (plus - minus) / (2 * STEP)


@every_case
@every_cell
def test_every_entry_matches_central_difference(cell: str, feature: str) -> None:
    case = make_case(cell, 3, 2, 2, 3, seed=SEED, **FEATURES[feature])
    g = gradients(case)
    for name in ARGUMENTS:
        if name not in case.inputs:
            continue
        expected = np.zeros_like(case.inputs[name])
        for k in np.ndindex(expected.shape):
            unit = np.zeros_like(expected)
            unit[k] = 1.0
            expected[k] = central_difference(case, {name: unit})
        actual = getattr(g, f"d{name}")
        assert actual.any() or feature.startswith("all"), f"d{name} is 0: nothing was tested"
        assert_close(actual, expected, "float64", "finite_difference", name=f"d{name}")


@every_case
@every_cell
def test_random_directions_match_central_difference(cell: str, feature: str) -> None:
    case = make_case(cell, 6, 4, 5, 7, seed=SEED, **FEATURES[feature])
    g = gradients(case)
    names = [name for name in ARGUMENTS if name in case.inputs]
    draw = np.random.default_rng(3)
    for chosen in [*([name] for name in names), names, names, names]:
        direction = {name: draw.standard_normal(case.inputs[name].shape) for name in chosen}
        slope = sum(np.sum(getattr(g, f"d{name}") * d) for name, d in direction.items())
        # Along a direction of standard normals the derivative has the size of |gradient|.
        size = np.sqrt(sum(np.sum(getattr(g, f"d{name}") ** 2) for name in chosen))
        error = abs(slope - central_difference(case, direction))
        assert error <= tolerance("float64", "finite_difference") * size, chosen


@every_case
@every_cell
def test_gradient_is_the_sum_over_the_cotangents(cell: str, feature: str) -> None:
    case = make_case(cell, 5, 4, 3, 6, **FEATURES[feature])
    backward, saved = functions(reference, cell).backward, run(case)[2]
    whole = backward(saved, **case.cotangents)
    nothing = dict.fromkeys(case.cotangents)
    parts = [backward(saved, **{**nothing, n: d}) for n, d in case.cotangents.items()]
    added = [None if p[0] is None else sum(p) for p in zip(*parts, strict=True)]
    assert_gradients_close(whole, type(whole)(*added), "float64")
    assert not any(g.any() for g in backward(saved, **nothing) if g is not None)
