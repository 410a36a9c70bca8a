"""Every cell, dtype and backend against the float64 reference, forward and every gradient."""

from __future__ import annotations

import numpy as np
import pytest
from shapes import (
    CELLS,
    DTYPES,
    FEATURES,
    LARGE_SHAPES,
    SHAPES,
    as_states,
    functions,
    make_case,
    shape_id,
)
from tolerances import assert_close

import fastrnn
from fastrnn import reference

BACKENDS = [name for name in fastrnn.backends() if name != "cuda"]


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


def check(cell, case, dtype, backend, T):
    forward, backward, _ = functions(fastrnn, cell)
    ref_forward, ref_backward, _ = functions(reference, cell)
    y, state, saved = forward(**case.inputs, backend=backend)
    gradients = backward(saved, **case.cotangents)
    ref_y, ref_state, ref_saved = ref_forward(**case.inputs)
    ref_gradients = ref_backward(ref_saved, **case.cotangents)

    assert saved.backend == backend
    assert y.dtype == dtype
    # h stays within a few units, and what is compared is sums of that size: a result that happens
    # to be tiny (one unit, one step) has the error of its terms
    assert_close(y, ref_y, dtype, "forward", T, name="y")
    for got, expected in zip(as_states(state), as_states(ref_state), strict=True):
        assert_close(got, expected, dtype, "forward", T, name="state")
    assert gradients._fields == ref_gradients._fields
    for name, got, expected in zip(gradients._fields, gradients, ref_gradients, strict=True):
        assert (got is None) == (expected is None)
        if got is not None:
            assert got.dtype == dtype
            assert_close(got, expected, dtype, "gradient", T, name=name)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("shape", SHAPES, ids=shape_id)
def test_every_shape_matches_reference(cell, dtype, shape, backend):
    check(cell, make_case(cell, *shape, dtype, seed=1, state=True), dtype, backend, shape[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("feature", FEATURES)
def test_every_feature_matches_reference(cell, dtype, feature, backend):
    case = make_case(cell, 11, 9, 6, 19, dtype, seed=2, **FEATURES[feature])
    check(cell, case, dtype, backend, 11)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("shape", LARGE_SHAPES, ids=shape_id)
def test_large_shapes_match_reference(cell, dtype, shape, backend):
    case = make_case(cell, *shape, dtype, seed=3, **FEATURES["all"])
    check(cell, case, dtype, backend, shape[0])


@pytest.mark.parametrize("cell", CELLS)
def test_more_than_65535_rows_match_reference(cell):
    T, B = 70, 940  # T*B = 65,800
    case = make_case(cell, T, B, 2, 3, np.float32, seed=4)
    check(cell, case, np.float32, BACKENDS[0], T)


@pytest.mark.parametrize("cell", CELLS)
def test_more_than_65535_steps_match_reference(cell):
    T = 65_537
    case = make_case(cell, T, 1, 1, 3, np.float64, seed=5)
    check(cell, case, np.float64, BACKENDS[0], T)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("T", "B"), [(0, 3), (4, 0), (0, 0)])
def test_no_steps_or_no_rows_pass_the_state_through(cell, T, B, backend):
    case = make_case(cell, T, B, 5, 7, np.float32, state=True)
    forward, backward, _ = functions(fastrnn, cell)
    y, state, saved = forward(**case.inputs, backend=backend)
    gradients = backward(saved, **case.cotangents)
    assert y.shape == (T, B, 7)
    for got, name in zip(as_states(state), ("h0", "c0"), strict=False):
        assert np.array_equal(got, case.inputs[name])
    assert np.array_equal(gradients.dh0, case.cotangents["dh_n"])
    assert not gradients.dw_hh.any()
    assert not gradients.dw_ih.any()
    assert gradients.dx.shape == (T, B, 5)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("feature", ["lengths", "mask", "all", "all_reverse"])
def test_what_must_not_be_read_may_be_nan(cell, feature, backend):
    case = make_case(cell, 9, 7, 5, 17, np.float32, seed=6, **FEATURES[feature])
    forward, backward, _ = functions(fastrnn, cell)
    results = []
    for each in (case, case.poisoned()):
        y, state, saved = forward(**each.inputs, backend=backend)
        results.append([y, *as_states(state), *backward(saved, **each.cotangents)])
    for clean, poisoned in zip(*results, strict=True):
        assert np.array_equal(clean, poisoned)


@pytest.mark.parametrize("cell", CELLS)
def test_nan_and_inf_pass_through_one_row_only(cell, backend):
    case = make_case(cell, 5, 4, 3, 6, np.float32, seed=7)
    x = case.inputs["x"].copy()
    x[2, 1, 0] = np.nan
    x[3, 2, 1] = np.inf
    forward, _, _ = functions(fastrnn, cell)
    y = forward(**{**case.inputs, "x": x}, backend=backend)[0]
    with np.errstate(invalid="ignore"):
        expected = functions(reference, cell).forward(**{**case.inputs, "x": x})[0]
    assert np.isnan(y[2:, 1]).all()
    assert np.isfinite(y[:2, 1]).all()
    assert np.array_equal(np.isnan(y), np.isnan(expected))
    assert np.isfinite(y[:, [0, 3]]).all()


@pytest.mark.parametrize("magnitude", [1e3, 1e30, 3e38])
@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm", "gru", "gru_reset_before"])
def test_huge_inputs_saturate_without_nan(cell, magnitude, backend):
    case = make_case(cell, 4, 3, 1, 5, np.float32, seed=8)
    x = np.sign(case.inputs["x"]) * np.float32(magnitude)
    forward, backward, _ = functions(fastrnn, cell)
    y, _, saved = forward(**{**case.inputs, "x": x}, backend=backend)
    assert np.isfinite(y).all()
    assert (np.abs(y) <= 1 + 1e-6).all()
    assert np.isfinite(backward(saved, **case.cotangents).dw_hh).all()


@pytest.mark.parametrize("cell", CELLS)
def test_inference_gives_the_bits_of_training(cell, backend):
    case = make_case(cell, 9, 7, 5, 33, np.float32, seed=9, **FEATURES["all"])
    forward, _, _ = functions(fastrnn, cell)
    y, state, saved = forward(**case.inputs, backend=backend)
    y_only, state_only, nothing = forward(**case.inputs, backend=backend, save=False)
    assert saved is not None
    assert nothing is None
    assert np.array_equal(y, y_only)
    for a, b in zip(as_states(state), as_states(state_only), strict=True):
        assert np.array_equal(a, b)


def test_cell_sequence_is_c_at_every_step(backend):
    case = make_case("lstm", 9, 7, 5, 17, np.float64, seed=10, **FEATURES["all_reverse"])
    expected = reference.lstm_forward(**case.inputs, return_cell_sequence=True)
    for save in (True, False):
        result = fastrnn.lstm_forward(
            **case.inputs, return_cell_sequence=True, save=save, backend=backend
        )
        assert len(result) == 4
        assert_close(result[3], expected[3], np.float64, "forward")


@pytest.mark.parametrize("cell", CELLS)
def test_backward_can_be_called_again(cell, backend):
    case = make_case(cell, 9, 7, 5, 17, np.float32, seed=11)
    forward, backward, _ = functions(fastrnn, cell)
    saved = forward(**case.inputs, backend=backend)[2]
    for first, second in zip(
        backward(saved, **case.cotangents), backward(saved, **case.cotangents), strict=True
    ):
        assert np.array_equal(first, second)


@pytest.mark.parametrize("cell", CELLS)
def test_missing_cotangents_are_zero(cell, backend):
    case = make_case(cell, 5, 3, 4, 9, np.float32, seed=12)
    forward, backward, _ = functions(fastrnn, cell)
    saved = forward(**case.inputs, backend=backend)[2]
    zeros = {name: np.zeros_like(value) for name, value in case.cotangents.items()}
    only_dy = {**zeros, "dy": case.cotangents["dy"]}
    only_state = {**case.cotangents, "dy": zeros["dy"]}
    for a, b in zip(backward(saved, only_dy["dy"]), backward(saved, **only_dy), strict=True):
        assert np.array_equal(a, b)
    only_state_given = {name: value for name, value in only_state.items() if name != "dy"}
    for a, b in zip(
        backward(saved, None, **only_state_given), backward(saved, **only_state), strict=True
    ):
        assert np.array_equal(a, b)
