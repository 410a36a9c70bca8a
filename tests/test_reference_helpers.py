"""The helpers that every test leans on: assert_close fails where it must, and inputs are seeded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from shapes import CELLS, DTYPES, FEATURES, SHAPES, make_case
from tolerances import TOLERANCES, assert_close, tolerance

nan, inf = np.nan, np.inf


def fails(*args: Any, **kwargs: Any) -> bool:
    try:
        assert_close(*args, **kwargs)
    except AssertionError:
        return True
    return False


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [(dtype, kind) for dtype in TOLERANCES for kind in TOLERANCES[dtype]],
)
def test_error_is_measured_against_the_largest_entry(dtype: str, kind: str) -> None:
    allowed = TOLERANCES[dtype][kind]
    assert not fails([8.0, 1.0 + 7.0 * allowed], [8.0, 1.0], dtype, kind)
    assert fails([8.0, 1.0 + 9.0 * allowed], [8.0, 1.0], dtype, kind)
    assert fails([8.0, 1.0 + 7.0 * allowed], [8.0, 1.0], dtype, kind, scale=1.0)


def test_tolerance_grows_as_the_root_of_steps_beyond_a_hundred() -> None:
    base = tolerance("float32", "forward")
    assert tolerance("float32", "forward", 100) == base
    assert tolerance("float32", "forward", 400) == pytest.approx(2 * base)


def test_zeros_must_be_exact() -> None:
    assert not fails([0.0, -0.0], [0.0, 0.0], "float32", "forward")
    assert fails([0.0, 1e-300], [0.0, 0.0], "float32", "forward")
    assert not fails([], [], "float32", "forward")


def test_nan_fails_unless_it_stands_where_it_is_expected() -> None:
    assert fails([nan, 1.0], [1.0, 1.0], "float32", "forward")
    assert fails([nan, 1.0], [nan, 1.0], "float32", "forward")
    assert fails([1.0, 1.0], [nan, 1.0], "float32", "forward", equal_nan=True)
    assert fails([nan, 2.0], [nan, 1.0], "float32", "forward", equal_nan=True)
    assert not fails([nan, 1.0], [nan, 1.0], "float32", "forward", equal_nan=True)


def test_infinities_must_be_equal() -> None:
    assert not fails([inf, 1.0], [inf, 1.0], "float32", "forward")
    assert fails([-inf, 1.0], [inf, 1.0], "float32", "forward")
    assert fails([inf, 1.0], [2.0, 1.0], "float32", "forward")
    assert fails([1.0, 1.0], [inf, 1.0], "float32", "forward")


def test_shape_and_none_must_agree() -> None:
    assert fails([[1.0]], [1.0], "float32", "forward")
    assert fails(None, [1.0], "float32", "forward")
    assert fails([1.0], None, "float32", "forward")
    assert not fails(None, None, "float32", "forward")


def test_message_names_the_worst_entry() -> None:
    with pytest.raises(AssertionError, match=r"dw: 1 of 4 entries.*\[1, 0\].*error 0.5"):
        assert_close(
            [[1.0, 2.0], [3.5, 4.0]], [[1.0, 2.0], [3.0, 4.0]], "float64", "gradient", name="dw"
        )


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_cases_are_seeded_and_features_change_no_other_input(cell: str, dtype: Any) -> None:
    plain = make_case(cell, *SHAPES[-1], dtype)
    assert not np.array_equal(plain.inputs["x"], make_case(cell, *SHAPES[-1], dtype, 1).inputs["x"])
    for options in FEATURES.values():
        case = make_case(cell, *SHAPES[-1], dtype, **{**options, "batch_first": False})
        for name, array in {**plain.inputs, **plain.cotangents}.items():
            other = {**case.inputs, **case.cotangents}.get(name, array)
            assert other.dtype == dtype
            assert np.array_equal(other, array)


def test_drawn_lengths_include_none_and_all() -> None:
    for T, B, *_ in SHAPES:
        lengths = make_case("lstm", T, B, 1, 1, lengths=True).inputs["lengths"]
        assert lengths.max() == T
        assert B == 1 or lengths.min() == 0
