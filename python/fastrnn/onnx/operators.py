"""ONNX's LSTM, GRU and RNN on the fused core.

Shapes with layout 0 (with layout 1 the batch comes first: X (B, T, I), Y (B, T, D, H), states
(B, D, H)): X (T, B, I), W (D, GH, I), R (D, GH, H), B (D, 2GH), P (D, 3H), sequence_lens (B,),
initial_h and initial_c (D, B, H), Y (T, D, B, H), Y_h and Y_c (D, B, H). D directions, G gates.
float16 and bfloat16 are computed in float32 and the results rounded once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from fastrnn import _core, functional
from fastrnn.reference.features import Features, settings

from .attributes import (
    OPERATORS,
    Attributes,
    GRUAttributes,
    LSTMAttributes,
    RNNAttributes,
    checked,
)
from .translation import Row, kind_of, options, read

if TYPE_CHECKING:
    from typing import Unpack

Array = npt.NDArray[Any]

COMPUTED_IN: dict[str, Any] = {
    "float16": np.dtype(np.float32),
    "bfloat16": np.dtype(np.float32),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}


def lstm(
    X: Array,
    W: Array,
    R: Array,
    B: Array | None = None,
    sequence_lens: Array | None = None,
    initial_h: Array | None = None,
    initial_c: Array | None = None,
    P: Array | None = None,
    **attributes: Unpack[LSTMAttributes],
) -> tuple[Array, Array, Array]:
    """ONNX's LSTM -> Y, Y_h, Y_c; gates i o f c, attributes as in the specification. Beyond
    sequence_lens Y is 0, and a row of length 0 keeps its initial state.
    """
    where = "fastrnn.onnx.lstm"
    layer = Layer(where, checked(where, "LSTM", attributes), W, R, B, P)
    return cast("tuple[Array, Array, Array]", layer(X, sequence_lens, initial_h, initial_c))


def gru(
    X: Array,
    W: Array,
    R: Array,
    B: Array | None = None,
    sequence_lens: Array | None = None,
    initial_h: Array | None = None,
    **attributes: Unpack[GRUAttributes],
) -> tuple[Array, Array]:
    """ONNX's GRU -> Y, Y_h; gates z r h, attributes as in the specification."""
    where = "fastrnn.onnx.gru"
    layer = Layer(where, checked(where, "GRU", attributes), W, R, B)
    return cast("tuple[Array, Array]", layer(X, sequence_lens, initial_h))


def rnn(
    X: Array,
    W: Array,
    R: Array,
    B: Array | None = None,
    sequence_lens: Array | None = None,
    initial_h: Array | None = None,
    **attributes: Unpack[RNNAttributes],
) -> tuple[Array, Array]:
    """ONNX's RNN -> Y, Y_h; attributes as in the specification."""
    where = "fastrnn.onnx.rnn"
    layer = Layer(where, checked(where, "RNN", attributes), W, R, B)
    return cast("tuple[Array, Array]", layer(X, sequence_lens, initial_h))


class Layer:
    """One LSTM, GRU or RNN operator with its weights, checked and packed once for many calls."""

    def __init__(
        self,
        where: str,
        attributes: Attributes,
        W: Array,
        R: Array,
        B: Array | None = None,
        P: Array | None = None,
    ) -> None:
        self.where, self.attributes = where, attributes
        gates, self.directions = OPERATORS[attributes.op].gates, len(attributes.reverse)
        G = "" if gates == 1 else f"{gates}*"
        arrays = {"W": W, "R": R, "B": B, "P": P}
        given = {name: np.asarray(a) for name, a in arrays.items() if a is not None}
        self.dtype = given["W"].dtype
        if self.dtype.name not in COMPUTED_IN:
            raise TypeError(f"{where}: W must be one of {', '.join(COMPUTED_IN)}, got {self.dtype}")
        for name, array in given.items():
            if array.dtype != self.dtype:
                raise TypeError(f"{where}: {name} must be {self.dtype} as W is, got {array.dtype}")
            if array.ndim != (3 if name in "WR" else 2):
                axes = "three" if name in "WR" else "two"
                raise ValueError(f"{where}: {name} must have {axes} axes, got shape {array.shape}")
        self.hidden = H = given["R"].shape[2]
        self.inputs = given["W"].shape[2]
        if attributes.hidden_size not in (None, H):
            raise ValueError(
                f"{where}: attribute 'hidden_size' is {attributes.hidden_size}, but R has shape "
                f"{given['R'].shape}, of hidden_size {H}"
            )
        shapes = {
            "R": (f"{G}hidden_size, hidden_size", (gates * H, H)),
            "W": (f"{G}hidden_size, input_size", (gates * H, self.inputs)),
            "B": (f"{2 * gates}*hidden_size", (2 * gates * H,)),
            "P": ("3*hidden_size", (3 * H,)),
        }
        for name, array in given.items():
            symbols, rest = shapes[name]
            if array.shape != (self.directions, *rest) or H == 0:
                raise ValueError(
                    f"{where}: {name} must be (num_directions, {symbols}) = "
                    f"{(self.directions, *rest)}, as R of shape {given['R'].shape} says; got shape "
                    f"{array.shape}"
                )
        self.compute = COMPUTED_IN[self.dtype.name]
        rows = read(attributes, {n: array.astype(self.compute) for n, array in given.items()})
        self._runs = [self._direction(d, row) for d, row in enumerate(rows)]

    def _direction(self, d: int, row: Row) -> Any:
        """(x, h0, c0, lengths) -> y, h_n, c_n of one direction."""
        attributes = self.attributes
        cell, features = options(attributes, d)
        features["peephole"] = row.get("peephole")
        on = settings(self.where, kind_of(attributes), cast(Features, features))
        w_ih, w_hh = row["weight_ih"], row["weight_hh"]
        b_ih, b_hh = row.get("bias_ih"), row.get("bias_hh")
        reverse, batch_first = attributes.reverse[d], attributes.batch_first
        if on.plain:
            forward = _core.Weights(self.where, cell, w_ih, w_hh, b_ih, b_hh, None).forward
            return lambda x, h0, c0, lengths: forward(
                x, h0, c0, lengths, None, None, reverse, batch_first, False
            )[:3]
        weights = w_ih, w_hh, b_ih, b_hh
        flags = None, None, reverse, batch_first, False, False, None, on
        return lambda x, h0, c0, lengths: functional.run_forward(
            self.where, cell, x, *weights, h0, c0, lengths, *flags
        )[:3]

    def __call__(
        self,
        X: Array,
        sequence_lens: Array | None = None,
        initial_h: Array | None = None,
        initial_c: Array | None = None,
    ) -> tuple[Array, ...]:
        """Y, Y_h and, of the LSTM, Y_c."""
        X = np.asarray(X)
        batch_first, D = self.attributes.batch_first, self.directions
        symbols = "batch, seq_length" if batch_first else "seq_length, batch"
        if X.ndim != 3 or X.shape[2] != self.inputs:
            raise ValueError(
                f"{self.where}: X must be ({symbols}, input_size) = (any, any, {self.inputs}), as "
                f"W of input_size {self.inputs} says; got shape {X.shape}"
            )
        steps, batch = X.shape[1::-1] if batch_first else X.shape[:2]
        states = []
        for name, state in (("initial_h", initial_h), ("initial_c", initial_c)):
            shape = (batch, D, self.hidden) if batch_first else (D, batch, self.hidden)
            states.append(self._state(name, state, shape))
        if sequence_lens is not None:
            sequence_lens = self._lengths(sequence_lens, steps, batch)
        x = self._input("X", X)
        calls = zip(self._runs, *states, strict=True)
        ends = [run(x, h0, c0, sequence_lens) for run, h0, c0 in calls]
        ys, hs, cs = zip(*ends, strict=True)
        # (T, B, D, H) in memory, so that the transposition that exporters add costs nothing
        Y = ys[0][:, :, np.newaxis] if D == 1 else np.stack(ys, axis=2)
        results = [Y if batch_first else Y.transpose(0, 2, 1, 3)]
        for parts in (hs, cs) if self.attributes.op == "LSTM" else (hs,):
            state = parts[0][np.newaxis] if D == 1 else np.stack(parts)
            results.append(state.swapaxes(0, 1) if batch_first else state)
        if self.dtype != self.compute:
            results = [result.astype(self.dtype) for result in results]
        return tuple(results)

    def _input(self, name: str, array: Array) -> Array:
        if array.dtype != self.dtype:
            raise TypeError(f"{self.where}: {name} must be {self.dtype} as W is, got {array.dtype}")
        computed: Array = array if self.dtype == self.compute else array.astype(self.compute)
        return computed

    def _state(self, name: str, given: Array | None, shape: tuple[int, ...]) -> list[Any]:
        if given is None:
            return [None] * self.directions
        state, batch_first = np.asarray(given), self.attributes.batch_first
        if state.shape != shape:
            first = "batch, num_directions" if batch_first else "num_directions, batch"
            raise ValueError(
                f"{self.where}: {name} must be ({first}, hidden_size) = {shape}, got shape "
                f"{state.shape}"
            )
        return list(self._input(name, state.swapaxes(0, 1) if batch_first else state))

    def _lengths(self, given: Array, steps: int, batch: int) -> Array:
        lengths = np.asarray(given)
        if lengths.dtype.kind not in "iu":
            raise TypeError(f"{self.where}: sequence_lens must be ints, got {lengths.dtype}")
        if lengths.shape != (batch,):
            raise ValueError(
                f"{self.where}: sequence_lens must be (batch,) = ({batch},), got shape "
                f"{lengths.shape}"
            )
        if batch and not 0 <= lengths.min() <= lengths.max() <= steps:
            raise ValueError(
                f"{self.where}: sequence_lens must be in 0 to seq_length = {steps}, got "
                f"{lengths.min()} to {lengths.max()}"
            )
        return lengths
