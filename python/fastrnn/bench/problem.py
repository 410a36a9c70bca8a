"""What all contestants compute, and whether their results agree."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from .. import modules
from .cases import Case

Array = npt.NDArray[Any]

# All round differently: each may be off by a few units of rounding.
LARGEST_DISAGREEMENT = 16.0


class Problem(NamedTuple):
    """A layer's parameters by torch's names, its input x (T, B, I), dy (T, B, D*H), and for a step
    the state before it: (h,) or (h, c), (L, B, H) each.
    """

    cell: str
    case: Case
    parameters: dict[str, Array]
    x: Array
    dy: Array
    state: tuple[Array, ...]
    lengths: Array | None


class Run(NamedTuple):
    """A call to be timed; it returns only when its results are there.

    infer: y, of a step the last layer's h. train: y, dx and the gradients of all parameters, in
    their order.
    """

    call: Callable[[], Any]
    to_numpy: Callable[[Any], list[Array]]  # of what call returns; may refer to the same memory


class Unsupported(Exception):
    """Why a contestant cannot take part in a line."""


class Peer(Protocol):
    """A contestant."""

    name: str
    version: str

    def prepare(self, problem: Problem, mode: str) -> Run:
        """Raises Unsupported."""


def make_problem(cell: str, case: Case) -> Problem:
    generator = np.random.default_rng(0)
    layer = make_layer(cell, case)
    dtype, width = np.dtype(case.dtype), case.directions * case.hidden_size

    def normal(*shape: int) -> Array:
        return generator.standard_normal(shape).astype(dtype)

    state_shape = case.layers, case.batch, case.hidden_size
    return Problem(
        cell,
        case,
        layer.state_dict(),
        normal(case.steps, case.batch, case.input_size),
        normal(case.steps, case.batch, width),
        tuple(normal(*state_shape) for _ in range(2 if cell == "lstm" else 1)) if case.step else (),
        case.row_lengths() if case.lengths else None,
    )


def make_layer(cell: str, case: Case) -> modules.Recurrent[Any]:
    kind: type[modules.Recurrent[Any]] = getattr(modules, cell.upper())
    sizes = case.input_size, case.hidden_size, case.layers
    return kind(*sizes, bidirectional=case.bidirectional, dtype=case.dtype, seed=0)


def disagreement(case: Case, ours: list[Array], theirs: list[Array]) -> float:
    """The largest difference of two lists of results, in units of what rounding may explain.

    The unit is eps * sqrt(longest sum) * the largest element of the array. Infinite where shape or
    dtype differ or one is not a number.
    """
    if [(a.shape, a.dtype) for a in ours] != [(a.shape, a.dtype) for a in theirs]:
        return math.inf
    terms = max(case.steps * case.batch, case.input_size + case.hidden_size)
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        unit = float(np.finfo(a.dtype).eps) * math.sqrt(terms) * float(np.abs(a).max())
        difference = float(np.abs(a - b).max())
        if difference != 0.0:  # NaN is not
            worst = max(worst, difference / unit if unit > 0.0 else math.inf)
            if math.isnan(difference):
                return math.inf
    return worst
