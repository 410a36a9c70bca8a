"""The one table of tolerances, and the one way to compare.

An array is compared with the largest entry of what is expected: entries of a matrix product have
rounding errors of the size of its terms, not of their own. Errors of independent roundings grow
as the square root of their number, so the tolerances, good to T = 100 steps, grow beyond it as
sqrt(T / 100).

Where a result hardly depends on its inputs' last digits, that is the whole story. Where it does (c
normalised over units that hardly vary, activations without a bound), no computation can do better
than the exact one of inputs that were rounded: `sensitivity` is what that changes, and CONDITION
times it is allowed at any rate.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

# dtype of the computation -> kind of result -> error allowed, relative to the largest entry
TOLERANCES = {
    "float32": {"forward": 4e-6, "gradient": 2e-5},
    # computed in float32 and rounded once: half a unit in the last place
    "float16": {"forward": 2.0**-11 + 4e-6},
    "bfloat16": {"forward": 2.0**-8 + 4e-6},
    "float64": {"forward": 1e-13, "gradient": 1e-12, "finite_difference": 1e-7},
}

# error allowed, relative to what rounding the inputs alone changes in the exact result
CONDITION = 4.0


def tolerance(dtype: npt.DTypeLike, kind: str, T: int = 1) -> float:
    """The relative error allowed for a kind of result of a sequence of T steps."""
    return float(TOLERANCES[_name(dtype)][kind] * np.sqrt(max(T, 100) / 100))


def _name(dtype: npt.DTypeLike) -> str:
    return dtype if isinstance(dtype, str) else np.dtype(dtype).name  # NumPy knows no bfloat16


def assert_close(
    actual: npt.ArrayLike | None,
    expected: npt.ArrayLike | None,
    dtype: npt.DTypeLike,
    kind: str,
    T: int = 1,
    *,
    name: str = "result",
    scale: float | None = None,
    sensitivity: float = 0.0,
    equal_nan: bool = False,
) -> None:
    """Assert |actual - expected| <= tolerance * max|expected| everywhere, or <= CONDITION *
    sensitivity.

    `scale` takes the place of max|expected|, for a caller who knows the size of the terms whose
    sum is compared. None is close to None alone. Where all expected entries are 0, actual must be
    exactly 0: such zeros come from what was never added (padding, resets, dead relus, T = 0),
    not from cancellation. NaN fails, unless equal_nan is set: then it must stand where expected
    has it. Infinities must be equal.
    """
    __tracebackhide__ = True
    if actual is None or expected is None:
        assert actual is expected, f"{name}: {_kind(actual)}, expected {_kind(expected)}"
        return
    a, e = np.asarray(actual, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    assert a.shape == e.shape, f"{name}: shape {a.shape}, expected {e.shape}"
    if equal_nan:
        nan = np.isnan(e)
        assert np.array_equal(np.isnan(a), nan), f"{name}: NaN at other places than expected"
        a, e = np.where(nan, 0.0, a), np.where(nan, 0.0, e)
    same = a == e  # infinities too
    error = np.abs(np.subtract(a, e, out=np.zeros_like(e), where=~same))
    finite = np.abs(e[np.isfinite(e)])
    size = float(finite.max(initial=0.0)) if scale is None else scale
    allowed = max(tolerance(dtype, kind, T) * size, CONDITION * sensitivity)
    bad = ~(error <= allowed)  # NaN is bad
    if not bad.any():
        return
    worst = np.unravel_index(np.argmax(np.where(np.isnan(error), np.inf, error)), error.shape)
    at = ", ".join(str(int(k)) for k in worst)
    relative = error[worst] / size if size else np.inf
    raise AssertionError(
        f"{name}: {int(bad.sum())} of {bad.size} entries are off; the worst is [{at}] = "
        f"{a[worst]!r}, expected {e[worst]!r}: error {error[worst]:.3g} is {relative:.3g} of "
        f"{size:.3g}, allowed {allowed / size if size else 0.0:.3g} ({_name(dtype)} {kind}, "
        f"T = {T})"
    )


def assert_gradients_close(
    actual: Any, expected: Any, dtype: npt.DTypeLike, T: int = 1, *, equal_nan: bool = False
) -> None:
    """`assert_close` for every field of the named tuple that a backward returns."""
    __tracebackhide__ = True
    assert actual._fields == expected._fields
    for name in expected._fields:
        a, e = getattr(actual, name), getattr(expected, name)
        assert_close(a, e, dtype, "gradient", T, name=name, equal_nan=equal_nan)


def _kind(value: npt.ArrayLike | None) -> str:
    return "None" if value is None else f"array of shape {np.shape(value)}"
