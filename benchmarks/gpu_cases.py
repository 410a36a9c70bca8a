"""The shapes that are timed on a GPU, each with a name, the most telling ones first.

A slot on a GPU is short: what comes first is measured for sure. The first group covers torch's
three ways through cuDNN (its persistent kernel, its small-H kernel, one product a step), the others
fill the grid of cells, dtypes, H and B, stacks, directions and rows of different length.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

CELLS = ("lstm", "gru", "rnn")
DTYPES = ("float16", "bfloat16", "tf32", "float32")  # tf32: float32 arrays, products in TF32
HIDDEN = (64, 128, 160, 192, 256, 512, 768, 1024, 2048)
BATCH = (1, 8, 16, 64, 128, 512)
MODES = ("infer", "train")


class Case(NamedTuple):
    """A layer or a stack, and its input x (T, B, I) with I = H."""

    cell: str
    dtype: str
    hidden: int
    batch: int
    steps: int = 100
    layers: int = 1
    bidirectional: bool = False
    packed: bool = False  # rows of different length, as a PackedSequence

    @property
    def name(self) -> str:
        """Cell-dtype-H-B-T-L and what is special: lstm-float16-512-16-100-1+packed."""
        special = [name for name in ("bidirectional", "packed") if getattr(self, name)]
        return "+".join(["-".join(map(str, self[:6])), *special])


def _first() -> list[Case]:
    persistent = [Case("lstm", "float16", h, b) for h in (256, 512, 1024) for b in (8, 64)]
    persistent.append(Case("lstm", "float16", 768, 16, 1024))
    standard = [
        Case(cell, dtype, h, b)
        for cell, dtype in (("lstm", "bfloat16"), ("gru", "float16"), ("lstm", "float32"))
        for h, b in ((256, 16), (512, 64), (1024, 16))
    ]
    small_h = [Case("lstm", "float32", h, b) for h in (72, 128, 168, 192) for b in (8, 64)]
    return persistent + standard + small_h


def _variants() -> list[Case]:
    base = [Case("lstm", dtype, h, 32) for dtype in ("float16", "float32") for h in (128, 512)]
    return [
        case._replace(**variant)
        for case in base
        for variant in (
            {"layers": 2},
            {"layers": 4},
            {"bidirectional": True},
            {"packed": True},
            {"layers": 2, "bidirectional": True, "packed": True},
        )
    ]


def _grid() -> list[Case]:
    """All of the grid, so ordered that any beginning of it is spread over the whole."""
    grid = [Case(c, d, h, b) for c, d, h, b in itertools.product(CELLS, DTYPES, HIDDEN, BATCH)]
    step = 263  # coprime to their number
    return [grid[i * step % len(grid)] for i in range(len(grid))]


def cases() -> tuple[Case, ...]:
    """Every case once."""
    return tuple(dict.fromkeys((*_first(), *_variants(), *_grid())))
