"""The shapes that are timed, each with a name: the one list of them."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

CELLS = ("lstm", "gru", "rnn")
MODES = ("infer", "train")
GATES = {"lstm": 4, "gru": 3, "rnn": 1}

_VARIANTS = ("lengths", "bidirectional", "float64", "step")


class Case(NamedTuple):
    """A layer and its input x (T, B, I).

    `step` is one step of a stream, from a given state, through what a framework has for that.
    """

    batch: int
    steps: int
    input_size: int
    hidden_size: int
    layers: int
    lengths: bool = False
    bidirectional: bool = False
    float64: bool = False
    step: bool = False

    @property
    def name(self) -> str:
        """B,T,I,H,L and what is special, as the command line takes it: 32,50,64,64,1+lengths."""
        special = [name for name in _VARIANTS if getattr(self, name)]
        return "+".join([",".join(map(str, self[:5])), *special])

    @property
    def dtype(self) -> Literal["float32", "float64"]:
        return "float64" if self.float64 else "float32"

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def modes(self) -> tuple[str, ...]:
        return ("infer",) if self.step else MODES

    def row_lengths(self) -> npt.NDArray[np.int64]:
        """How many steps each row has: all, or between a tenth of them and all, about 55 %."""
        if not self.lengths:
            return np.full(self.batch, self.steps, np.int64)
        least = max(1, self.steps // 10)
        return np.random.default_rng(0).integers(least, self.steps + 1, self.batch, np.int64)


def parse(name: str) -> Case:
    """The case of that name. Raises ValueError."""
    sizes, *special = name.split("+")
    try:
        batch, steps, inputs, hidden, layers = map(int, sizes.split(","))
    except ValueError:
        raise ValueError(
            f"a case is five numbers B,T,I,H,L, e.g. {SHAPES[1].name}, "
            f"then any of +{', +'.join(_VARIANTS)}; got {name}"
        ) from None
    case = Case(batch, steps, inputs, hidden, layers)
    if min(case[:5]) < 1:
        raise ValueError(f"every number of a case must be at least 1, got {name}")
    for variant in special:
        if variant not in _VARIANTS:
            raise ValueError(f"+{variant} is none of +{', +'.join(_VARIANTS)}, got {name}")
        case = case._replace(**{variant: True})
    if case.step and (case.steps != 1 or case.lengths or case.bidirectional):
        raise ValueError(f"+step is one step in one direction: T = 1 and no other, got {name}")
    return case


SHAPES = tuple(
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
MORE = tuple(
    map(
        parse,
        (
            "1,1,64,64,1+step",
            "1,1,256,256,1+step",
            "1,1,128,128,2+step",
            "32,100,128,256,1+lengths",
            "16,100,128,128,1+bidirectional",
            "16,100,128,128,2+lengths+bidirectional",
            "16,100,128,128,2",
            "16,100,128,128,4",
            "1,100,128,128,1+float64",
            "16,100,256,256,1+float64",
        ),
    )
)
SUITES = {"shapes": SHAPES, "more": MORE, "all": SHAPES + MORE}


def choose(names: list[str] | tuple[str, ...]) -> tuple[Case, ...]:
    """The cases of these names, of suites or of cases; each once, in this order."""
    found: dict[Case, None] = {}
    for name in names:
        found.update(dict.fromkeys(SUITES[name] if name in SUITES else (parse(name),)))
    return tuple(found)
