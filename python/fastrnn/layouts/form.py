"""One direction of one kind of cell, as one layout keeps it: names, order of gates, rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .biases import BiasRule
from .direction import GATES, Array, Direction, reorder, zeros_like_bias


@dataclass(frozen=True)
class Arrangement:
    """Arrays that stand for parts of one matrix or bias: split it along its axis of gates."""

    parts: Mapping[str, tuple[tuple[str, int], ...]]  # whole -> ((part, gates), ...)

    def join(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        parts = {part for group in self.parts.values() for part, _ in group}
        joined = {name: array for name, array in arrays.items() if name not in parts}
        for whole, group in self.parts.items():
            found = [arrays[part] for part, _ in group if part in arrays]
            if len(found) == len(group):
                joined[whole] = np.concatenate(found, axis=-1)
            elif found:
                missing = [part for part, _ in group if part not in arrays]
                raise ValueError(f"{', '.join(missing)} is missing")
        return joined

    def split(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        split: dict[str, Array] = {}
        for name, array in arrays.items():
            if name not in self.parts:
                split[name] = array
                continue
            group = self.parts[name]
            gates = np.cumsum([count for _, count in group])
            unit = array.shape[-1] // int(gates[-1])
            pieces = np.split(array, [int(g) * unit for g in gates[:-1]], axis=-1)
            split |= {part: piece for (part, _), piece in zip(group, pieces, strict=True)}
        return split


@dataclass(frozen=True)
class Form:
    """How one kind of cell is kept.

    order: the gates, in torch's letters; ih, hh: names of the matrices, the same one twice for
    (I+H, GH); transposed: (I, GH) for torch's (GH, I); extra: a constant that the framework adds to
    the bias of a gate (its own bias is then b_ih, the constant b_hh); inverted: its update gate is
    1 - torch's z; biased: it cannot say that there is no bias.
    """

    kind: str
    order: str
    ih: str
    hh: str
    bias: BiasRule
    transposed: bool = False
    inverted: bool = False
    extra: tuple[str, float] | None = None
    biased: bool = False
    arrangement: Arrangement | None = None

    @property
    def names(self) -> list[str]:
        """The arrays, in the order in which the layout lists them."""
        whole = dict.fromkeys([self.ih, self.hh, *self.bias.rows])
        if self.arrangement is None:
            return list(whole)
        parts = self.arrangement.parts
        return [p for name in whole for p, _ in parts.get(name, ((name, 1),))]

    def read(self, stored: Mapping[str, Any], merged: str) -> Direction:
        arrays = {name: np.asarray(array) for name, array in stored.items()}
        if unknown := [name for name in arrays if name not in self.names]:
            raise ValueError(f"{', '.join(unknown)}: unknown; it has {', '.join(self.names)}")
        if self.arrangement is not None:
            arrays = self.arrangement.join(arrays)
        w_ih, w_hh = self._matrices(arrays)
        gates, hidden = len(self.order), w_hh.shape[1]
        for name, rows in self.bias.rows.items():
            if name in arrays and arrays[name].size != rows * hidden:
                raise ValueError(
                    f"{name} must have {rows}H = {rows * hidden} numbers, as "
                    f"{self.hh} is for H = {hidden}; got shape {arrays[name].shape}"
                )
        if missing := [n for n in self.bias.rows if n not in arrays]:
            if len(missing) < len(self.bias.rows):
                raise ValueError(f"{', '.join(missing)} is missing")
            if self.biased:
                raise ValueError(f"{', '.join(missing)} is missing; this layout always has it")
        # the framework's constant is b_hh; added to the bias, the way back would not be exact
        b_ih, b_hh = self.bias.read(arrays, "ih" if self.extra else merged)
        if self.extra is not None:
            b_hh = self._extra(gates, hidden, w_hh)
        wanted = GATES[self.kind]
        direction = Direction(
            reorder(w_ih, 0, self.order, wanted),
            reorder(w_hh, 0, self.order, wanted),
            None if b_ih is None else reorder(b_ih, 0, self.order, wanted),
            None if b_hh is None else reorder(b_hh, 0, self.order, wanted),
        )
        return _invert(direction) if self.inverted else direction

    def write(self, direction: Direction, strict: bool) -> dict[str, Array]:
        if self.inverted:
            direction = _invert(direction)
        have = GATES[self.kind]
        b_ih = direction.b_ih
        b_hh = direction.b_hh
        if self.biased and b_ih is None and b_hh is None:
            b_ih = zeros_like_bias(direction)
        b_ih = None if b_ih is None else reorder(b_ih, 0, have, self.order)
        b_hh = None if b_hh is None else reorder(b_hh, 0, have, self.order)
        w_ih = reorder(direction.w_ih, 0, have, self.order)
        w_hh = reorder(direction.w_hh, 0, have, self.order)
        if self.extra is not None:
            extra = self._extra(len(self.order), w_hh.shape[1], w_hh)
            if b_hh is None:
                assert b_ih is not None
                b_ih = b_ih - extra
            else:
                b_hh = b_hh - extra
        if self.transposed:
            w_ih, w_hh = w_ih.T, w_hh.T
        if self.ih == self.hh:
            arrays = {self.ih: np.concatenate([w_ih, w_hh])}
        else:
            arrays = {self.ih: w_ih, self.hh: w_hh}
        arrays |= self.bias.write(b_ih, b_hh, strict)
        if self.arrangement is not None:
            arrays = self.arrangement.split(arrays)
        return {name: np.ascontiguousarray(arrays[name]) for name in self.names if name in arrays}

    def _matrices(self, arrays: Mapping[str, Array]) -> tuple[Array, Array]:
        gates = len(self.order)
        shapes = "(I, GH)" if self.transposed else "(GH, I)"
        for name in (self.ih, self.hh):
            if name not in arrays:
                raise ValueError(f"{name} is missing")
            if arrays[name].ndim != 2:
                raise ValueError(f"{name} must be a matrix, got shape {arrays[name].shape}")
            if arrays[name].dtype.kind in "biucOSUmM":
                raise ValueError(f"{name} must be of a float dtype, got {arrays[name].dtype}")
        if self.ih == self.hh:
            whole = arrays[self.ih]
            hidden = whole.shape[1] // gates
            inputs = whole.shape[0] - hidden
            if whole.shape[1] % gates or hidden == 0 or inputs < 1:
                raise ValueError(f"{self.ih} must be (I+H, {gates}H), got shape {whole.shape}")
            return whole[:inputs].T, whole[inputs:].T
        w_ih, w_hh = arrays[self.ih], arrays[self.hh]
        if self.transposed:
            w_ih, w_hh = w_ih.T, w_hh.T
        if w_hh.shape[0] != gates * w_hh.shape[1] or w_hh.shape[1] == 0:
            shape = f"(H, {gates}H)" if self.transposed else f"({gates}H, H)"
            raise ValueError(f"{self.hh} must be {shape}, got shape {arrays[self.hh].shape}")
        if w_ih.shape[0] != w_hh.shape[0]:
            raise ValueError(
                f"{self.ih} must be {shapes} with GH = {w_hh.shape[0]}, as {self.hh} of shape "
                f"{arrays[self.hh].shape} says; got shape {arrays[self.ih].shape}"
            )
        return w_ih, w_hh

    def _extra(self, gates: int, hidden: int, like: Array) -> Array:
        assert self.extra is not None
        gate, value = self.extra
        extra = np.zeros((gates, hidden), like.dtype)
        extra[self.order.index(gate)] = value
        return extra.reshape(-1)


def _invert(direction: Direction) -> Direction:
    """z becomes 1 - z: sigmoid(-a) = 1 - sigmoid(a)."""
    hidden = direction.w_hh.shape[1]

    def negate(array: Array | None) -> Array | None:
        if array is None:
            return None
        negated = array.copy()
        negated[hidden : 2 * hidden] *= -1
        return negated

    w_ih, w_hh = negate(direction.w_ih), negate(direction.w_hh)
    assert w_ih is not None
    assert w_hh is not None
    return Direction(w_ih, w_hh, negate(direction.b_ih), negate(direction.b_hh))
