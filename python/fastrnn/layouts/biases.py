"""How layouts keep the two biases of a direction.

``read`` gives b_ih, b_hh in the layout's own order of gates, ``write`` takes them so. Where a
layout has one bias for the sum of both, ``merged`` says where it goes: all into b_ih ("ih"), all
into b_hh ("hh"), or half into each ("split"). The bias of the GRU's candidate inside the reset gate
is no part of such a sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .direction import Array, Lossy, add

Pair = tuple[Array | None, Array | None]
Arrays = Mapping[str, Array]


class BiasRule(Protocol):
    """Names of the arrays, the number of rows of H that each has, and the two ways."""

    @property
    def rows(self) -> Mapping[str, int]: ...
    def read(self, arrays: Arrays, merged: str) -> Pair: ...
    def write(self, b_ih: Array | None, b_hh: Array | None, strict: bool) -> dict[str, Array]: ...


def place(bias: Array, merged: str) -> Pair:
    if merged == "ih":
        return bias, None
    if merged == "hh":
        return None, bias
    half = bias * bias.dtype.type(0.5)
    return half, bias - half


def _present(b_ih: Array | None, b_hh: Array | None) -> tuple[Array, Array] | None:
    """Both, with zeros for one that is absent; None if both are."""
    if b_ih is None and b_hh is None:
        return None
    one = b_ih if b_ih is not None else b_hh
    assert one is not None
    zero = np.zeros_like(one)
    return (zero if b_ih is None else b_ih), (zero if b_hh is None else b_hh)


@dataclass(frozen=True)
class Two:
    """Two arrays (torch, haste's GRU)."""

    ih: str
    hh: str
    gates: int

    @property
    def rows(self) -> Mapping[str, int]:
        return {self.ih: self.gates, self.hh: self.gates}

    def read(self, arrays: Arrays, merged: str) -> Pair:
        return arrays.get(self.ih), arrays.get(self.hh)

    def write(self, b_ih: Array | None, b_hh: Array | None, strict: bool) -> dict[str, Array]:
        both = _present(b_ih, b_hh)
        return {} if both is None else {self.ih: both[0], self.hh: both[1]}


@dataclass(frozen=True)
class Joined:
    """One array of both, one after the other: (2GH,) (ONNX), or (2, GH) (Keras's GRU)."""

    name: str
    gates: int
    stacked: bool

    @property
    def rows(self) -> Mapping[str, int]:
        return {self.name: 2 * self.gates}

    def read(self, arrays: Arrays, merged: str) -> Pair:
        if self.name not in arrays:
            return None, None
        b_ih, b_hh = np.split(arrays[self.name].reshape(-1), 2)
        return b_ih, b_hh

    def write(self, b_ih: Array | None, b_hh: Array | None, strict: bool) -> dict[str, Array]:
        both = _present(b_ih, b_hh)
        if both is None:
            return {}
        return {self.name: np.stack(both) if self.stacked else np.concatenate(both)}


@dataclass(frozen=True)
class One:
    """The sum (GH,). ``inside``: the last gate's b_hh stands inside the reset gate, so it is 0."""

    name: str
    gates: int
    inside: bool = False

    @property
    def rows(self) -> Mapping[str, int]:
        return {self.name: self.gates}

    def read(self, arrays: Arrays, merged: str) -> Pair:
        if self.name not in arrays:
            return None, None
        bias = arrays[self.name]
        return (bias, None) if self.inside else place(bias, merged)

    def write(self, b_ih: Array | None, b_hh: Array | None, strict: bool) -> dict[str, Array]:
        if self.inside and b_hh is not None:
            hidden = b_hh.size // self.gates
            if strict and b_hh[-hidden:].any():
                raise Lossy("it has no recurrent bias of the candidate (b_hn), which is not 0 here")
            b_hh = np.concatenate([b_hh[:-hidden], np.zeros(hidden, b_hh.dtype)])
        bias = add(b_ih, b_hh)
        return {} if bias is None else {self.name: bias}


@dataclass(frozen=True)
class CandidateApart:
    """The GRU: sums of the other gates, then b_in and b_hn, in one array of four or in two."""

    name: str
    apart: str | None = None  # the array of b_hn

    @property
    def rows(self) -> Mapping[str, int]:
        return {self.name: 4} if self.apart is None else {self.name: 3, self.apart: 1}

    def read(self, arrays: Arrays, merged: str) -> Pair:
        if self.name not in arrays:
            return None, None
        bias = arrays[self.name].reshape(-1)
        if self.apart is not None:
            bias = np.concatenate([bias, arrays[self.apart]])
        hidden = bias.size // 4
        b_ih, b_hh = place(bias[: 2 * hidden], merged)
        zero = np.zeros(2 * hidden, bias.dtype)
        return (
            np.concatenate([zero if b_ih is None else b_ih, bias[2 * hidden : 3 * hidden]]),
            np.concatenate([zero if b_hh is None else b_hh, bias[3 * hidden :]]),
        )

    def write(self, b_ih: Array | None, b_hh: Array | None, strict: bool) -> dict[str, Array]:
        both = _present(b_ih, b_hh)
        if both is None:
            return {}
        hidden = both[0].size // 3
        sums = both[0][: 2 * hidden] + both[1][: 2 * hidden]
        outside, inside = both[0][2 * hidden :], both[1][2 * hidden :]
        if self.apart is None:
            return {self.name: np.concatenate([sums, outside, inside])}
        return {self.name: np.concatenate([sums, outside]), self.apart: inside}
