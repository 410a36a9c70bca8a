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

# An error of a sum of n rounded terms grows as sqrt(n); twice the worst that was seen is allowed.
_ULPS_PER_ROOT = 8.0


class Result(NamedTuple):
    """The largest errors of one cell, dtype and backend.

    ulp       of one element, in units in the last place of the largest element of its array
    relative  of one array: norm of the error over the norm of the array
    limit     for ulp
    """

    cell: str
    dtype: str
    backend: str
    forward_ulp: float
    forward_relative: float
    gradient_ulp: float
    gradient_relative: float
    limit: float

    @property
    def passed(self) -> bool:
        return max(self.forward_ulp, self.gradient_ulp) <= self.limit  # False for NaN


def run() -> int:
    """Print a table of errors. Returns 0 if all are within their limits, else 1."""
    results = list(tqdm(checks(), total=len(VARIANTS) * len(DTYPES) * len(backends()), leave=False))
    print(
        f"{'':34}{'forward':>20}{'gradients':>24}\n"
        f"{'cell':18}{'dtype':9}{'backend':9}{'ulp':>10}{'relative':>12}"
        f"{'ulp':>10}{'relative':>12}{'limit':>8}"
    )
    for result in results:
        print(
            f"{result.cell:18}{result.dtype:9}{result.backend:9}"
            f"{result.forward_ulp:10.1f}{result.forward_relative:12.1e}"
            f"{result.gradient_ulp:10.1f}{result.gradient_relative:12.1e}"
            f"{result.limit:8.0f}{'' if result.passed else '  TOO LARGE'}"
        )
    failed = sum(not result.passed for result in results)
    print(f"{failed} of {len(results)} failed" if failed else f"all {len(results)} passed")
    return 1 if failed else 0


def checks() -> Iterator[Result]:
    for name in VARIANTS:
        for dtype in DTYPES:
            for backend in backends():
                yield check(name, dtype, backend)


def check(variant: str, dtype: str, backend: str) -> Result:
    """The errors of one cell, dtype and backend over all SHAPES."""
    cell, gates, options = VARIANTS[variant]
    forward, gradient = [], []
    terms = 0
    for steps, batch, inputs, hidden in SHAPES:
        terms = max(terms, inputs + hidden, steps * batch)
        call = _call(cell, gates, (steps, batch, inputs, hidden), dtype)
        exact = _results(reference, cell, call.as_type(np.float64), options)
        with np.errstate(invalid="ignore"):
            ours = _results(functional, cell, call, options | {"backend": backend})
        forward += [_errors(a, b) for a, b in zip(ours[0], exact[0], strict=True)]
        gradient += [_errors(a, b) for a, b in zip(ours[1], exact[1], strict=True)]
    worst = [
        float(np.max(pair)) for kind in (forward, gradient) for pair in zip(*kind, strict=True)
    ]
    return Result(
        variant,
        dtype,
        backend,
        worst[0],
        worst[1],
        worst[2],
        worst[3],
        _ULPS_PER_ROOT * math.sqrt(terms),
    )


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


def _errors(ours: Array, exact: Array) -> tuple[float, float]:
    """The largest error in last places of the largest element, and the relative norm."""
    error = np.abs(ours.astype(np.float64) - exact)
    unit = float(np.spacing(np.abs(exact).max().astype(ours.dtype)))
    return float(error.max()) / unit, float(np.linalg.norm(error) / np.linalg.norm(exact))
