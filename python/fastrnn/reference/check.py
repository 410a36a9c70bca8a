"""Arguments checked once, in their order, and brought to float64 and time-major."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from . import philox
from .activations import RELU, TANH, Activation
from .cell import Array, Cell
from .features import Settings
from .gates import Gates
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
        activations: tuple[Activation, ...],
        x: npt.ArrayLike,
        w_ih: npt.ArrayLike,
        w_hh: npt.ArrayLike,
        b_ih: npt.ArrayLike | None,
        b_hh: npt.ArrayLike | None,
        initial: dict[str, npt.ArrayLike | None],
        features: Settings,
        lengths: npt.ArrayLike | None = None,
        mask: npt.ArrayLike | None = None,
        reset: npt.ArrayLike | None = None,
        reverse: bool = False,
        batch_first: bool = False,
    ) -> Problem:
        """Everything that forward takes."""
        G = cell.gates
        GH = "H" if G == 1 else f"{G}H"
        P = "H" if features.w_hr is None else "P"
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
        weights = self.real("w_hh", w_hh, [GH, P])
        b_ih = np.zeros(len(weights)) if b_ih is None else self.real("b_ih", b_ih, [GH])
        b_hh = np.zeros(len(weights)) if b_hh is None else self.real("b_hh", b_hh, [GH])
        w_hr = None if features.w_hr is None else self.real("w_hr", features.w_hr, ["P", "H"])
        B, T = self.sizes["B"], self.sizes["T"]
        states = tuple(
            np.zeros((B, self.sizes[units])) if s is None else self.real(name, s, ["B", units])
            for (name, s), units in zip(initial.items(), (P, "H"), strict=False)
        )
        valid = np.ones((T, B), dtype=bool)
        if lengths is not None:
            valid = np.arange(T)[:, np.newaxis] < self.lengths(lengths)
        every = np.ones(x.shape[:2], dtype=bool)
        mask = every if mask is None else self.bools("mask", mask, time_batch)
        reset = ~every if reset is None else self.bools("reset", reset, time_batch)
        if batch_first:
            x, mask, reset = x.swapaxes(0, 1), mask.T, reset.T
        norm, gains = features.layer_norm, dict[str, Array]()
        if norm is not None:
            gains = {n: self.real(n, getattr(norm, n), [GH]) for n in ("gain_ih", "gain_hh")}
        kept_weights = self.kept("weight_dropout", (1, *weights.shape), philox.WEIGHT, features)
        if kept_weights is not None:
            weights = weights * kept_weights[0]
        kept = self.kept("recurrent_dropout", (1, B, weights.shape[1]), philox.RECURRENT, features)
        return Problem(
            cell,
            self.gates(cell, activations, features),
            x,
            w_ih,
            weights,
            b_ih,
            b_hh,
            states,
            valid,
            mask,
            reset,
            reverse,
            w_hr=w_hr,
            **gains,
            kept=None if kept is None else kept[0],
            zoneout=tuple(
                zoneout(p, (T, *s.shape), stream, features)
                for p, s, stream in zip(
                    features.zoneout,
                    states,
                    (philox.ZONEOUT_H, philox.ZONEOUT_C),
                    strict=False,
                )
            ),
            kept_weights=None if kept_weights is None else kept_weights[0],
        )

    def gates(self, cell: Cell, activations: tuple[Activation, ...], features: Settings) -> Gates:
        norm, arrays = features.layer_norm, dict[str, Any]()
        if features.peephole is not None:
            self.sizes["peepholes"] = cell.gates - 1
            arrays["peephole"] = self.real("peephole", features.peephole, ["peepholes", "H"])
        where = None
        if norm is not None and norm.gain_c is not None and norm.bias_c is not None:
            where = norm.variant
            arrays["gain_c"] = self.real("gain_c", norm.gain_c, ["H"])
            arrays["bias_c"] = self.real("bias_c", norm.bias_c, ["H"])
        return Gates(
            activations if features.activations is None else features.activations,
            features.clip,
            features.cell_clip,
            layer_norm=where,
            eps=1e-5 if norm is None else norm.eps,
            **arrays,
        )

    def kept(
        self, option: str, shape: tuple[int, int, int], stream: int, features: Settings
    ) -> Array | None:
        p = getattr(features, option)
        return philox.kept(shape, p, features.seed, stream) if p and features.training else None

    def positive(self, name: str, symbol: str) -> None:
        if self.sizes[symbol] == 0:
            raise ValueError(f"{self.function}: {name} must have {symbol} > 0, got {symbol} = 0")


def as_tuple(symbols: Sequence[str]) -> str:
    return f"({', '.join(symbols)}{',' if len(symbols) == 1 else ''})"


def zoneout(p: float, shape: tuple[int, int, int], stream: int, features: Settings) -> Array | None:
    """The share of its old value that a unit keeps: 1 or 0 in training, else p."""
    if p == 0.0:
        return None
    if not features.training:
        return np.full(shape, p)
    return philox.happens(shape, p, features.seed, stream).astype(np.float64)


def nonlinearity_of(function: str, nonlinearity: str) -> Activation:
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"{function}: nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
    return TANH if nonlinearity == "tanh" else RELU
