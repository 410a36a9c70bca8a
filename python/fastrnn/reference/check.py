"""Arguments checked once, in their order, and brought to float64 and time-major."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .cell import Array, Cell
from .sequence import Bools, Problem


@dataclass
class Check:
    """One call: its name, for the messages, and the sizes learnt from its arguments so far."""

    function: str
    sizes: dict[str, int] = field(default_factory=dict)

    def real(self, name: str, value: npt.ArrayLike, symbols: Sequence[str]) -> Array:
        """A real array as float64, of the shape that the symbols name."""
        array = np.asarray(value)
        if array.dtype.kind == "b" or not np.can_cast(array.dtype, np.float64):
            raise TypeError(
                f"{self.function}: {name} must hold real numbers of at most 64 bits, "
                f"got dtype {array.dtype}"
            )
        self.shape(name, array, symbols)
        return array.astype(np.float64)

    def bools(self, name: str, value: npt.ArrayLike, symbols: Sequence[str]) -> Bools:
        """A bool array of the shape that the symbols name."""
        array = np.array(value)
        if array.dtype != np.bool_:
            raise TypeError(f"{self.function}: {name} must be bool, got dtype {array.dtype}")
        self.shape(name, array, symbols)
        return array

    def lengths(self, value: npt.ArrayLike) -> npt.NDArray[np.integer[Any]]:
        """(B,) ints, none below 0, none above T."""
        array = np.asarray(value)
        if array.dtype.kind not in "iu":
            raise TypeError(f"{self.function}: lengths must be integers, got dtype {array.dtype}")
        self.shape("lengths", array, ["B"])
        T = self.sizes["T"]
        if array.size and (array.min() < 0 or array.max() > T):
            raise ValueError(
                f"{self.function}: lengths must lie between 0 and T = {T}, "
                f"got {array.min()} to {array.max()}"
            )
        return array

    def shape(self, name: str, array: npt.NDArray[Any], symbols: Sequence[str]) -> None:
        """Compare with the sizes known; learn those that are not."""
        fits = array.ndim == len(symbols) and all(
            self.sizes.setdefault(s, n) == n for s, n in zip(symbols, array.shape, strict=True)
        )
        if not fits:
            wanted = [f"{self.sizes.get(s, s)}" for s in symbols]
            raise ValueError(
                f"{self.function}: {name} must have shape "
                f"{as_tuple(symbols)} = {as_tuple(wanted)}, got {array.shape}"
            )

    def problem(
        self,
        cell: Cell,
        x: npt.ArrayLike,
        w_ih: npt.ArrayLike,
        w_hh: npt.ArrayLike,
        b_ih: npt.ArrayLike | None,
        b_hh: npt.ArrayLike | None,
        initial: dict[str, npt.ArrayLike | None],
        lengths: npt.ArrayLike | None = None,
        mask: npt.ArrayLike | None = None,
        reset: npt.ArrayLike | None = None,
        reverse: bool = False,
        batch_first: bool = False,
    ) -> Problem:
        """Everything that forward takes."""
        G = cell.gates
        GH = "H" if G == 1 else f"{G}H"
        time_batch = ["B", "T"] if batch_first else ["T", "B"]

        x = self.real("x", x, [*time_batch, "I"])
        self.positive("x", "I")
        w_ih = self.real("w_ih", w_ih, [GH, "I"])
        self.sizes["H"], rest = divmod(self.sizes[GH], G)
        if rest:
            raise ValueError(
                f"{self.function}: w_ih must have shape ({GH}, I), rows a multiple of {G}, "
                f"got {w_ih.shape}"
            )
        self.positive("w_ih", "H")
        w_hh = self.real("w_hh", w_hh, [GH, "H"])
        b_ih = np.zeros(len(w_hh)) if b_ih is None else self.real("b_ih", b_ih, [GH])
        b_hh = np.zeros(len(w_hh)) if b_hh is None else self.real("b_hh", b_hh, [GH])
        B, H, T = (self.sizes[s] for s in "BHT")
        states = tuple(
            np.zeros((B, H)) if s is None else self.real(name, s, ["B", "H"])
            for name, s in initial.items()
        )
        valid = np.ones((T, B), dtype=bool)
        if lengths is not None:
            valid = np.arange(T)[:, np.newaxis] < self.lengths(lengths)
        every = np.ones(x.shape[:2], dtype=bool)
        mask = every if mask is None else self.bools("mask", mask, time_batch)
        reset = ~every if reset is None else self.bools("reset", reset, time_batch)
        if batch_first:
            x, mask, reset = x.swapaxes(0, 1), mask.T, reset.T
        return Problem(cell, x, w_ih, w_hh, b_ih, b_hh, states, valid, mask, reset, reverse)

    def positive(self, name: str, symbol: str) -> None:
        if self.sizes[symbol] == 0:
            raise ValueError(f"{self.function}: {name} must have {symbol} > 0, got {symbol} = 0")


def as_tuple(symbols: Sequence[str]) -> str:
    return f"({', '.join(symbols)}{',' if len(symbols) == 1 else ''})"
