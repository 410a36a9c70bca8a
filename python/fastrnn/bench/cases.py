"""The shapes that are timed: from one step of one row to two stacked layers of a large batch."""

from __future__ import annotations

from typing import NamedTuple

CELLS = ("lstm", "gru", "rnn")
MODES = ("infer", "train")


class Case(NamedTuple):
    batch: int
    steps: int
    input_size: int
    hidden_size: int
    layers: int

    @property
    def name(self) -> str:
        """B,T,I,H,L, as the command line takes it."""
        return ",".join(map(str, self))


CASES = tuple(
    Case(*sizes)
    for sizes in (
        (1, 1, 64, 64, 1),
        (1, 100, 64, 64, 1),
        (1, 100, 128, 128, 1),
        (1, 100, 256, 256, 1),
        (1, 100, 512, 512, 1),
        (1, 50, 1024, 1024, 1),
        (8, 100, 128, 128, 1),
        (16, 100, 256, 256, 1),
        (32, 50, 512, 512, 1),
        (64, 20, 1024, 1024, 1),
        (128, 50, 64, 64, 1),
        (256, 28, 28, 128, 1),
        (64, 64, 128, 512, 2),
    )
)


def parse(name: str) -> Case:
    """The case that `name` gives as B,T,I,H,L. Raises ValueError."""
    try:
        case = Case(*map(int, name.split(",")))
    except (TypeError, ValueError):
        raise ValueError(
            f"a case is five numbers B,T,I,H,L, e.g. {CASES[1].name}; got {name}"
        ) from None
    if min(case) < 1:
        raise ValueError(f"every number of a case must be at least 1, got {name}")
    return case
