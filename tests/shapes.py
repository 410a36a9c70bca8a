"""Cells, shapes, features and seeded inputs: the one list that every test goes over.

case = make_case("lstm", 5, 3, 7, 17, np.float32, seed=0, **FEATURES["lengths"])
forward, backward, step = functions(fastrnn, "lstm")
y, state, saved = forward(**case.inputs)
gradients = backward(saved, **case.cotangents)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import fastrnn

# Backends with kernels of their own in either dtype.
OWN_KERNELS = [name for name in fastrnn.backends() if name not in ("amx", "fixed", "cuda")]

GATES = {"rnn_tanh": 1, "rnn_relu": 1, "lstm": 4, "gru": 3, "gru_reset_before": 3}
CELLS = tuple(GATES)
DTYPES = (np.float32, np.float64)

LANES = (1, 2, 4, 8, 16)
TILE_ROWS = (4, 6, 8)
HIDDEN = sorted({n + d for n in LANES for d in (-1, 0, 1)} - {0})
BATCH = sorted({n + d for n in TILE_ROWS for d in (-1, 0, 1)})

# (T, B, I, H)
SHAPES = (
    (1, 1, 1, 1),
    (1, 1, 3, 5),
    (1, 7, 16, 8),
    *((5, 3, i, h) for i, h in zip(reversed(HIDDEN), HIDDEN, strict=True)),
    *((4, b, 5, 9) for b in BATCH),
    (13, 3, 1, 7),
    (6, 5, 17, 1),
    (7, 13, 33, 31),
    (9, 2, 31, 47),
    (20, 1, 24, 64),
    (12, 32, 20, 33),
)
LARGE_SHAPES = ((100, 1, 64, 64), (100, 4, 32, 65), (30, 17, 65, 130))

# What make_case is asked for, by the name of what it shows.
FEATURES: dict[str, dict[str, Any]] = {
    "plain": {},
    "no_bias": {"bias": False},
    "state": {"state": True},
    "lengths": {"lengths": True},
    "mask": {"mask": True},
    "reset": {"reset": True, "state": True},
    "reverse": {"reverse": True},
    "batch_first": {"batch_first": True},
    "all": {"state": True, "lengths": True, "mask": True, "reset": True},
    "all_reverse": {
        "state": True,
        "lengths": True,
        "mask": True,
        "reset": True,
        "reverse": True,
        "batch_first": True,
    },
}


class Functions(NamedTuple):
    """A cell's functions in one namespace; the choice of the cell is already in them."""

    forward: Callable[..., Any]
    backward: Callable[..., Any]
    step: Callable[..., Any]


def functions(namespace: ModuleType, cell: str) -> Functions:
    """The cell's functions in `fastrnn` or `fastrnn.reference`."""
    family, _, variant = cell.partition("_")
    options: dict[str, Any] = {}
    if family == "rnn":
        options = {"nonlinearity": variant}
    if family == "gru":
        options = {"reset_after": variant != "reset_before"}
    return Functions(
        partial(getattr(namespace, f"{family}_forward"), **options),
        getattr(namespace, f"{family}_backward"),
        partial(getattr(namespace, f"{family}_step"), **options),
    )


def shape_id(shape: tuple[int, int, int, int]) -> str:
    """(5, 3, 7, 17) -> "T5B3I7H17"."""
    return "".join(f"{symbol}{n}" for symbol, n in zip("TBIH", shape, strict=True))


def as_states(state: Any) -> tuple[Any, ...]:
    """What a forward returns as its final state, as a tuple whatever the cell: (h,) or (h, c)."""
    return state if isinstance(state, tuple) else (state,)


@dataclass(frozen=True)
class Case:
    """Keyword arguments of a forward call, and of its backward call beside `saved`."""

    cell: str
    inputs: dict[str, Any]
    cotangents: dict[str, Any]

    @property
    def batch_first(self) -> bool:
        """Whether x and dy are (B, T, ...) and mask and reset (B, T)."""
        return bool(self.inputs.get("batch_first", False))

    @property
    def valid(self) -> npt.NDArray[np.bool_]:
        """(T, B), or (B, T) with batch_first: inside the row's length."""
        x = self.inputs["x"]
        T, B = x.shape[1::-1] if self.batch_first else x.shape[:2]
        lengths = np.asarray(self.inputs.get("lengths", np.full(B, T)))
        valid = np.arange(T)[:, np.newaxis] < lengths
        return valid.T if self.batch_first else valid

    @property
    def taken(self) -> npt.NDArray[np.bool_]:
        """As `valid`, and the step not skipped by the mask."""
        taken: npt.NDArray[np.bool_] = self.valid & self.inputs.get("mask", True)
        return taken

    def with_inputs(self, **inputs: Any) -> Case:
        """The same, but for these inputs."""
        return replace(self, inputs={**self.inputs, **inputs})

    def with_cotangents(self, **cotangents: Any) -> Case:
        """The same, but for these cotangents."""
        return replace(self, cotangents={**self.cotangents, **cotangents})

    def poisoned(self) -> Case:
        """The same, but for NaN wherever x and dy must not be read."""
        nan = self.inputs["x"].dtype.type("nan")
        x = np.where(self.taken[..., np.newaxis], self.inputs["x"], nan)
        dy = np.where(self.valid[..., np.newaxis], self.cotangents["dy"], nan)
        return self.with_inputs(x=x).with_cotangents(dy=dy)


def make_case(
    cell: str,
    T: int,
    B: int,
    I: int,
    H: int,
    dtype: npt.DTypeLike = np.float64,
    seed: int = 0,
    *,
    bias: bool = True,
    state: bool = False,
    lengths: bool | npt.ArrayLike = False,
    mask: bool | npt.ArrayLike = False,
    reset: bool | npt.ArrayLike = False,
    reverse: bool = False,
    batch_first: bool = False,
) -> Case:
    """Random arguments, the same for the same arguments whatever else is asked for.

    Weights are uniform in +-1/sqrt(fan-in) and biases in +-0.5, so that gates seldom saturate
    (1 - tanh^2 is then ill conditioned in float32); all else is standard normal. lengths, mask and
    reset may be given as arrays ((B,), (T, B), (T, B)); True draws them: lengths include T, and 0
    where B > 1; 3 steps in 10 are masked, 2 in 10 reset.

    With seed 0 every SHAPES x FEATURES case is well conditioned: plain NumPy float32 stays within
    a fifth of the tolerances. With others a lone entry (H = 1) may cancel to almost nothing.
    """
    draw = np.random.default_rng([seed, CELLS.index(cell), T, B, I, H])
    GH = GATES[cell] * H
    names = {"x": (T, B, I), "w_ih": (GH, I), "w_hh": (GH, H), "b_ih": (GH,), "b_hh": (GH,)}
    names |= {"h0": (B, H), "c0": (B, H), "dy": (T, B, H), "dh_n": (B, H), "dc_n": (B, H)}
    scale = {"w_ih": 1 / np.sqrt(I), "w_hh": 1 / np.sqrt(H), "b_ih": 0.5, "b_hh": 0.5}
    arrays = {
        name: (
            draw.uniform(-1, 1, shape) * scale[name]
            if name in scale
            else draw.standard_normal(shape)
        ).astype(dtype)
        for name, shape in names.items()
    }
    ends = draw.integers(0, T, B, endpoint=True)
    ends[:1], ends[1:2] = T, 0
    flags = {
        "lengths": (lengths, draw.permutation(ends)),
        "mask": (mask, draw.random((T, B)) < 0.7),
        "reset": (reset, draw.random((T, B)) < 0.2),
    }

    wanted = ["x", "w_ih", "w_hh", *(["b_ih", "b_hh"] if bias else []), *(["h0"] if state else [])]
    cotangents = ["dy", "dh_n"]
    if cell == "lstm":
        wanted += ["c0"] if state else []
        cotangents += ["dc_n"]
    inputs: dict[str, Any] = {name: arrays[name] for name in wanted}
    for name, (asked, drawn) in flags.items():
        if asked is not False:
            inputs[name] = drawn if asked is True else np.asarray(asked)
    if batch_first:
        inputs["batch_first"] = True
        for name in {"x", "mask", "reset"} & inputs.keys():
            inputs[name] = np.ascontiguousarray(inputs[name].swapaxes(0, 1))
        arrays["dy"] = np.ascontiguousarray(arrays["dy"].swapaxes(0, 1))
    if reverse:
        inputs["reverse"] = True
    return Case(cell, inputs, {name: arrays[name] for name in cotangents})
