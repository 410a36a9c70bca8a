"""The attributes of ONNX's LSTM, GRU and RNN, checked, in the words of the core."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from fastrnn.reference.activations import FUNCTIONS, Activation


class RNNAttributes(TypedDict, total=False):
    """Of every operator, as the specification has them."""

    hidden_size: int
    direction: str
    activations: Sequence[str]
    activation_alpha: Sequence[float]
    activation_beta: Sequence[float]
    clip: float
    layout: int


class LSTMAttributes(RNNAttributes, total=False):
    """Of the LSTM."""

    input_forget: int


class GRUAttributes(RNNAttributes, total=False):
    """Of the GRU."""

    linear_before_reset: int


@dataclass(frozen=True)
class Operator:
    """gates: rows of W in units of H; functions: activations a direction, f g h of the
    specification; own: the attribute that no other operator has.
    """

    gates: int
    functions: tuple[str, ...]
    own: str | None = None


OPERATORS = {
    "LSTM": Operator(4, ("sigmoid", "tanh", "tanh"), "input_forget"),
    "GRU": Operator(3, ("sigmoid", "tanh"), "linear_before_reset"),
    "RNN": Operator(1, ("tanh",)),
}
DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}

# how many numbers (alpha, or alpha and beta) an activation takes
NUMBERS = {"leakyrelu": 1, "thresholdedrelu": 1, "elu": 1}
NUMBERS |= {"affine": 2, "scaledtanh": 2, "hardsigmoid": 2}


@dataclass(frozen=True)
class Attributes:
    """op: LSTM, GRU or RNN; reverse: of each direction; activations: of each direction, f g h."""

    op: str
    hidden_size: int | None
    reverse: tuple[bool, ...]
    activations: tuple[tuple[Activation, ...], ...]
    clip: float | None
    batch_first: bool
    input_forget: bool
    linear_before_reset: bool


def checked(where: str, op: str, given: Mapping[str, Any]) -> Attributes:
    """Raises ValueError that names the operator (`where`), the attribute and what is supported."""
    operator = OPERATORS[op]
    names = [*RNNAttributes.__annotations__, *([operator.own] if operator.own else [])]
    for name in given:
        if name not in names:
            raise ValueError(
                f"{where}: attribute {name!r} is not supported; it has {', '.join(names)}"
            )

    def fail(name: str, wanted: str) -> None:
        raise ValueError(f"{where}: attribute {name!r} must be {wanted}, got {given.get(name)!r}")

    direction = _text(given.get("direction", "forward"))
    if direction not in DIRECTIONS:
        fail("direction", "forward, reverse or bidirectional")
    flags = {}
    for name in ("layout", "input_forget", "linear_before_reset"):
        if (flag := given.get(name, 0)) not in (0, 1):
            fail(name, "0 or 1")
        flags[name] = bool(flag)
    hidden_size = given.get("hidden_size")
    if hidden_size is not None and not (isinstance(hidden_size, int) and hidden_size > 0):
        fail("hidden_size", "an int above 0")
    clip = given.get("clip")
    if clip is not None and not (isinstance(clip, (int, float)) and clip > 0):
        fail("clip", "a number above 0")
    return Attributes(
        op,
        hidden_size,
        DIRECTIONS[direction],
        _activations(where, operator.functions, len(DIRECTIONS[direction]), given),
        clip,
        flags["layout"],
        flags["input_forget"],
        flags["linear_before_reset"],
    )


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _activations(
    where: str, usual: tuple[str, ...], directions: int, given: Mapping[str, Any]
) -> tuple[tuple[Activation, ...], ...]:
    """Each takes its numbers off the front of activation_alpha and _beta, or has ONNX's."""
    names = [_text(name) for name in given.get("activations", usual * directions)]
    if len(names) != len(usual) * directions:
        raise ValueError(
            f"{where}: attribute 'activations' must hold {len(usual)} a direction, "
            f"{len(usual) * directions} in all, got {len(names)}: {', '.join(names)}"
        )
    alpha, beta = (list(given.get(f"activation_{n}", ())) for n in ("alpha", "beta"))
    chosen = []
    for name in names:
        key = name.lower()
        if key not in FUNCTIONS:
            raise ValueError(
                f"{where}: attribute 'activations': {name!r} is not supported; there are "
                f"{', '.join(FUNCTIONS)}"
            )
        count, default = NUMBERS.get(key, 0), FUNCTIONS[key]
        a = float(alpha.pop(0)) if count > 0 and alpha else default.alpha
        b = float(beta.pop(0)) if count > 1 and beta else default.beta
        chosen.append(Activation(key, a, b))
    for kind, left, takes in (("alpha", alpha, 1), ("beta", beta, 2)):
        takers = sum(NUMBERS.get(f.name, 0) >= takes for f in chosen)
        if left and takers:  # without takers, to whom the numbers belong is no question
            raise ValueError(
                f"{where}: attribute 'activation_{kind}' must hold one number for each activation "
                f"that takes one, {takers} here, got {takers + len(left)}"
            )
    size = len(usual)
    return tuple(tuple(chosen[d * size : (d + 1) * size]) for d in range(directions))
