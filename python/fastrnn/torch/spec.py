"""A layer's signature, in one place: what is fixed, a :class:`Spec`, and its tensors,
:class:`Inputs`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from torch import Tensor

from fastrnn import stack
from fastrnn._core import Plan
from fastrnn.reference.features import Settings
from fastrnn.reference.philox import layer_key

__all__ = ["OPTIONS", "Inputs", "Results", "Spec", "as_text", "kind_of", "plan_of"]

OPTIONS = (
    *("peephole", "coupled", "activations", "clip", "cell_clip", "layer_norm"),
    *("zoneout", "recurrent_dropout", "weight_dropout"),
)
_GATES = {
    "lstm": 4,
    "lstm_coupled": 3,
    "gru": 3,
    "gru_reset_before": 3,
    "rnn_tanh": 1,
    "rnn_relu": 1,
}


class Spec(NamedTuple):
    """What a layer is, beside its tensors. Hashable, and of types that an operator can take."""

    cell: str  # as the core calls it
    batch_first: bool = False
    bidirectional: bool = False
    options: str = ""  # `as_text` of stack.LayerOptions; "" for none
    level: int = 0  # in a stack of layers: the masks depend on it
    recompute: bool = False  # keep the state at some steps alone for backward

    @property
    def plan(self) -> Plan:
        """It as the core takes it."""
        return plan_of(self.cell, self.batch_first, self.bidirectional, self.options)

    @property
    def settings(self) -> Settings | None:
        """The options, with stand-ins for their arrays; None for none."""
        return _settings(self.cell, self.options)

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def gates(self) -> int:
        return _GATES[self.cell]

    def keys(self, seed: Tensor | None) -> tuple[int, ...] | None:
        """The key of the masks of each direction; None without a seed."""
        if seed is None:
            return None
        number = int(seed)
        return tuple(layer_key(number, 0, self.level, d) for d in range(self.directions))

    def rows(self, weights: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """The weights of each direction by their names without a level."""
        each = len(weights) // self.directions
        names = _names(self.cell, self.options, each)
        return [
            dict(zip(names, weights[d * each : (d + 1) * each], strict=True))
            for d in range(self.directions)
        ]

    def is_projected(self, weights: Sequence[Tensor]) -> bool:
        return "weight_hr" in _names(self.cell, self.options, len(weights) // self.directions)


class Inputs(NamedTuple):
    """The tensors of a layer. D = 2 directions when bidirectional, else 1; P = H without a
    projection. ``batch_first`` swaps T and B.
    """

    x: Tensor  # (T, B, I); of one step (B, I), with states (B, P) and (B, H)
    weights: Sequence[Tensor]  # in the order of stack.Kind.shapes, D times
    h0: Tensor | None = None  # (D, B, P)
    c0: Tensor | None = None  # (D, B, H), LSTM
    lengths: Tensor | None = None  # (B,)
    mask: Tensor | None = None  # (T, B)
    reset: Tensor | None = None  # (T, B)
    seed: Tensor | None = None  # (), int64: of this call's masks; None: the layer is evaluated


# y, h_n, c_n, c, reserve
Results = tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]


def as_text(options: Mapping[str, Any]) -> str:
    """Those that are not as by default, for `Spec`."""
    given = {name: value for name, value in options.items() if value != stack.DEFAULTS[name]}
    return json.dumps(given) if given else ""


def kind_of(
    cell: str,
    options: Mapping[str, Any],
    *,
    bias: bool = True,
    proj_size: int = 0,
    sizes: tuple[int, int] = (1, 1),
    levels: int = 1,
    directions: int = 1,
) -> stack.Kind:
    """`sizes`: of x and of the hidden state."""
    family = cell.split("_")[0]
    return stack.Kind(
        family,
        cell,
        "rnn" if family == "rnn" else "lstm" if family == "lstm" else cell,
        _GATES[cell],
        stack.DEFAULTS | dict(options) | {"proj_size": proj_size},
        (sizes[1],) * levels,
        sizes[0],
        directions,
        bias,
    )


@cache
def _names(cell: str, options: str, count: int) -> tuple[str, ...]:
    given = json.loads(options) if options else {}
    for bias in (False, True):
        for proj_size in (0, 1):
            shapes = kind_of(cell, given, bias=bias, proj_size=proj_size, sizes=(1, 2)).shapes()
            names = tuple(name[: -len("_l0")] for name, _ in shapes)
            if len(names) == count:
                return names
    raise ValueError(f"{cell} with options {options or '{}'} does not have {count} weights")


@cache
def _settings(cell: str, options: str) -> Settings | None:
    if not options:
        return None
    return kind_of(cell, json.loads(options)).check(cell, float)


@cache
def plan_of(cell: str, batch_first: bool, bidirectional: bool, options: str) -> Plan:
    """The core's view of a `Spec`."""
    return Plan(cell, batch_first, bidirectional, _settings(cell, options))
