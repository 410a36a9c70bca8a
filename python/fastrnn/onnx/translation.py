"""ONNX's arrays and attributes in the words of the core, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastrnn.layouts.direction import GATES, Direction, reorder
from fastrnn.layouts.table import LAYOUTS

from .attributes import OPERATORS, Attributes

Array = npt.NDArray[Any]
Row = dict[str, Array]  # the parameters of one direction, by torch's names

_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
_ONNX = LAYOUTS["onnx"]


def kind_of(attributes: Attributes) -> str:
    """lstm, gru, gru_reset_before or rnn."""
    op = attributes.op.lower()
    return op if op != "gru" or attributes.linear_before_reset else "gru_reset_before"


def gates_of(attributes: Attributes) -> str:
    return "igo" if attributes.input_forget else GATES[kind_of(attributes)]


def read(attributes: Attributes, given: Mapping[str, Array]) -> list[Row]:
    """W, R and perhaps B and P -> the parameters of each direction."""
    kind, gates = kind_of(attributes), gates_of(attributes)
    matrices = {name: array for name, array in given.items() if name != "P"}
    (layer,) = _ONNX.stack.read(matrices, _ONNX.forms[kind], "ih")
    rows = []
    for d, one in enumerate(layer):
        values = dict(zip(_NAMES, (one.w_ih, one.w_hh, one.b_ih, one.b_hh), strict=True))
        row = {
            name: reorder(a, 0, GATES[kind], gates) for name, a in values.items() if a is not None
        }
        if "P" in given:
            seen = gates.replace("g", "")
            row["peephole"] = reorder(given["P"][d], 0, "iof", seen).reshape(len(seen), -1)
        rows.append(row)
    return rows


def write(kind: str, rows: Sequence[Row]) -> dict[str, Array]:
    """The parameters of each direction -> W, R and perhaps B and P.

    The coupled LSTM has no forget gate; its place in ONNX's arrays, which is not looked at, gets
    what the input gate has.
    """
    coupled = kind == "lstm_coupled"
    kind = kind.removesuffix("_coupled")
    layer = []
    for row in rows:
        values = {name: row.get(name) for name in _NAMES}
        if coupled:
            values = {
                n: None if a is None else reorder(a, 0, "igo", "iigo") for n, a in values.items()
            }
        w_ih, w_hh, b_ih, b_hh = values.values()
        assert w_ih is not None
        assert w_hh is not None
        layer.append(Direction(w_ih, w_hh, b_ih, b_hh))
    arrays = _ONNX.stack.write([layer], _ONNX.forms[kind], True)
    if "peephole" in rows[0]:
        seen, wanted = ("io", "ioi") if coupled else ("ifo", "iof")
        flat = [reorder(row["peephole"].reshape(-1), 0, seen, wanted) for row in rows]
        arrays["P"] = np.stack(flat)
    return arrays


def options(attributes: Attributes, d: int) -> tuple[str, dict[str, Any]]:
    """The core's cell, and its options, of a direction."""
    kind, gates = kind_of(attributes), gates_of(attributes)
    functions = attributes.activations[d]
    names = tuple(f.name for f in functions)
    usual, cell = OPERATORS[attributes.op].functions, kind
    found: dict[str, Any] = {"clip": attributes.clip} if attributes.clip is not None else {}
    if attributes.input_forget:
        cell, found["coupled"] = "lstm_coupled", True
    if kind == "rnn":
        cell = "rnn_relu" if names == ("relu",) else "rnn_tanh"
        usual = names if names == ("relu",) else usual
    if names != usual:
        of_gate = dict.fromkeys(gates, functions[0])
        if len(functions) > 1:
            of_gate["g" if kind == "lstm" else "n"] = functions[1]
        chosen = [of_gate[gate] for gate in gates] + list(functions[2:])
        found["activations"] = [(f.name, f.alpha, f.beta) for f in chosen]
    return cell, found
