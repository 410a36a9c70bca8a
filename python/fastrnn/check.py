"""A self-test of this installation: every cell, dtype and backend against the float64 reference."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from . import backends, functional, reference

Array = npt.NDArray[Any]

VARIANTS: dict[str, tuple[str, int, dict[str, Any]]] = {  # name: cell, gates, options
    "lstm": ("lstm", 4, {}),
    "gru": ("gru", 3, {"reset_after": True}),
    "gru, reset before": ("gru", 3, {"reset_after": False}),
    "rnn, tanh": ("rnn", 1, {"nonlinearity": "tanh"}),
    "rnn, relu": ("rnn", 1, {"nonlinearity": "relu"}),
}
DTYPES = ("float32", "float64")
SHAPES = ((1, 1, 1, 1), (7, 5, 3, 17), (20, 33, 40, 64))  # T B I H: tails of every vector and tile

# The worst that a right build was seen to give is 27; sigmoid or tanh wrong by 1e-5 gives over 100.
_LARGEST_ULP = 64.0


class Error(NamedTuple):
    """The largest errors of some arrays.

    ulp       of one element, in units in the last place of the largest element of its array
    relative  of one array: norm of the error over the norm of the array
    """

    ulp: float
    relative: float


class Result(NamedTuple):
    cell: str
    dtype: str
    backend: str
    forward: Error
    gradients: Error

    @property
    def passed(self) -> bool:
        return all(error.ulp <= _LARGEST_ULP for error in (self.forward, self.gradients))


def run() -> int:
    """Print a table of errors. Returns 0 if all are within the limit, else 1."""
    total = len(VARIANTS) * len(DTYPES) * len(backends())
    results = list(tqdm(checks(), total=total, leave=False, disable=None))
    print(f"{'':36}{'forward':>22}{'gradients':>22}")
    print(f"{'cell':18}{'dtype':9}{'backend':9}" + f"{'ulp':>10}{'relative':>12}" * 2)
    for result in results:
        errors = "".join(f"{e.ulp:10.1f}{e.relative:12.1e}" for e in result[3:])
        verdict = "" if result.passed else "  TOO LARGE"
        print(f"{result.cell:18}{result.dtype:9}{result.backend:9}{errors}{verdict}")
    failed = sum(not result.passed for result in results)
    print(
        f"{failed} of {len(results)} have errors above {_LARGEST_ULP:g} ulp"
        if failed
        else f"all {len(results)} are within {_LARGEST_ULP:g} ulp of the reference"
    )
    return 1 if failed else 0


def checks() -> Iterator[Result]:
    for variant in VARIANTS:
        for dtype in DTYPES:
            yield from check(variant, dtype)


def check(variant: str, dtype: str) -> Iterator[Result]:
    """The errors of one cell and dtype over all SHAPES, for each backend."""
    cell, gates, options = VARIANTS[variant]
    calls = [_call(cell, gates, shape, dtype) for shape in SHAPES]
    exact = [_results(reference, cell, call.as_type(np.float64), options) for call in calls]
    for backend in backends():
        forward: list[Error] = []
        gradients: list[Error] = []
        for call, right in zip(calls, exact, strict=True):
            ours = _results(functional, cell, call, options | {"backend": backend})
            for errors, a, b in zip((forward, gradients), ours, right, strict=True):
                errors += map(_error, a, b)
        yield Result(variant, dtype, backend, _largest(forward), _largest(gradients))


class _Call(NamedTuple):
    x: Array
    weights: tuple[Array, ...]
    state: tuple[Array, ...]
    dy: Array
    dstate: tuple[Array, ...]

    def as_type(self, dtype: npt.DTypeLike) -> _Call:
        def cast(value: Any) -> Any:
            return tuple(map(cast, value)) if isinstance(value, tuple) else value.astype(dtype)

        return _Call(*(cast(field) for field in self))


def _call(cell: str, gates: int, shape: tuple[int, int, int, int], dtype: str) -> _Call:
    """Random arguments, rounded to `dtype`."""
    steps, batch, inputs, hidden = shape
    generator = np.random.default_rng(steps)
    rows = gates * hidden
    bound = 1.0 / math.sqrt(hidden)
    states = 2 if cell == "lstm" else 1
    call = _Call(
        x=generator.standard_normal((steps, batch, inputs)),
        weights=tuple(
            generator.uniform(-bound, bound, size)
            for size in ((rows, inputs), (rows, hidden), (rows,), (rows,))
        ),
        state=tuple(generator.uniform(-1, 1, (batch, hidden)) for _ in range(states)),
        dy=generator.standard_normal((steps, batch, hidden)),
        dstate=tuple(generator.standard_normal((batch, hidden)) for _ in range(states)),
    )
    return call.as_type(dtype)


def _results(
    module: Any, cell: str, call: _Call, options: dict[str, Any]
) -> tuple[list[Array], list[Array]]:
    """y and the last state; all gradients."""
    state = dict(zip(("h0", "c0"), call.state, strict=False))
    y, last, saved = getattr(module, f"{cell}_forward")(call.x, *call.weights, **state, **options)
    gradients = getattr(module, f"{cell}_backward")(saved, call.dy, *call.dstate)
    return [y, *(last if isinstance(last, tuple) else (last,))], list(gradients)


def _error(ours: Array, exact: Array) -> Error:
    difference = np.abs(ours.astype(np.float64) - exact)
    unit = float(np.spacing(np.abs(exact).max().astype(ours.dtype)))
    return Error(
        float(difference.max()) / unit, float(np.linalg.norm(difference) / np.linalg.norm(exact))
    )


def _largest(errors: list[Error]) -> Error:
    """NaN if there is one."""
    return Error(*(float(value) for value in np.max(np.array(errors), axis=0)))
