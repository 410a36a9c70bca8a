"""From the arrays of one layout to those of another, by way of torch's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from .direction import Array, Lossy
from .form import Form
from .stacks import Params
from .table import LAYOUTS

__all__ = ["convert"]

CELLS = ("lstm", "gru", "rnn")


def convert(
    params: Mapping[str, Any] | Sequence[Any],
    src: str,
    dst: str,
    cell: str,
    *,
    reset_after: bool = True,
    merge_bias: Literal["ih", "hh", "split"] = "ih",
    strict: bool = True,
) -> dict[str, Array]:
    """The weights of a recurrent layer, or of a stack of them, in another framework's layout.

    params: arrays by their names in the layout ``src`` (:data:`fastrnn.layouts.LAYOUTS`, the table
    in the documentation); for Keras also the list that ``layer.get_weights()`` gives. cell: "lstm",
    "gru" or "rnn"; ``reset_after=False`` for the GRU whose reset gate acts before the recurrent
    product. Names of a second layer begin with "1.", those of a reverse direction with "reverse.",
    where the layout has no names or axis of its own for them.

    A layout with one bias in place of two gets their sum. The other way, ``merge_bias`` says where
    it goes: into the input's bias, the recurrent one, or half into each; of Haiku and TF1, which
    add 1 to the forget gate's, the bias is the input's and the 1 the recurrent one. What is then
    converted back is equal to what it came from, to the last bit.

    Raises ``ValueError`` for an array that is missing, unknown or of a wrong shape, and for a
    conversion that would compute something else: a cell that the layout has not, or a bias that it
    cannot hold. ``strict=False`` drops that bias, and moves the weights of a GRU to a layout that
    has only the other one.
    """
    for name, value, known in (
        ("src", src, LAYOUTS),
        ("dst", dst, LAYOUTS),
        ("cell", cell, CELLS),
        ("merge_bias", merge_bias, ("ih", "hh", "split")),
    ):
        if value not in known:
            choice = ", ".join(map(repr, known))
            raise ValueError(f"convert: argument {name!r} must be one of {choice}; got {value!r}")
    source, target = LAYOUTS[src], LAYOUTS[dst]
    kind = "gru_reset_before" if cell == "gru" and not reset_after else cell
    form = source.forms.get(kind)
    if form is None:
        raise ValueError(f"convert: layout {src!r} has no {_words(kind)}")
    try:
        layers = source.stack.read(_named(params, form), form, merge_bias)
    except ValueError as error:
        raise ValueError(f"convert: layout {src!r}, {cell}: {error}") from None
    into = target.forms.get(kind)
    if into is None and not strict and cell == "gru":
        into = target.forms.get("gru" if kind == "gru_reset_before" else "gru_reset_before")
    if into is None:
        raise Lossy(f"convert: layout {dst!r} has no {_words(kind)}")
    try:
        return target.stack.write(layers, into, strict)
    except Lossy as error:
        raise Lossy(f"convert: layout {dst!r}, {cell}: {error}; strict=False drops it") from None
    except ValueError as error:
        raise ValueError(f"convert: layout {dst!r}, {cell}: {error}") from None


def _words(kind: str) -> str:
    return {
        "lstm": "LSTM",
        "gru": "GRU with the reset gate after the product",
        "gru_reset_before": "GRU with the reset gate before the product",
        "rnn": "plain RNN",
    }[kind]


def _named(params: Mapping[str, Any] | Sequence[Any], form: Form) -> Params:
    """A list of arrays gets the names of one direction, or of two."""
    if isinstance(params, Mapping):
        return params
    names = form.names
    for directions in (1, 2):
        for count in (len(names), len(names) - len(form.bias.rows)):
            if len(params) == directions * count:
                both = [prefix + n for prefix in ("", "reverse.") for n in names[:count]]
                return dict(zip(both[: len(params)], params, strict=True))
    raise ValueError(
        f"a list must be {', '.join(names)} of one or two directions; got {len(params)} arrays"
    )
