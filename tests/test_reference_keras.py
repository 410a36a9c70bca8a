"""The reference against Keras, above all the GRU with reset_after=False, and masks.

In float32: Keras 3.15 rounds matrix products to it even where everything is float64.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from shapes import CELLS, GATES, as_states, functions, make_case
from tolerances import assert_close, assert_gradients_close

from fastrnn import reference

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras", reason="compares with Keras", exc_type=ImportError)

# Keras's gates, as places in torch's order: i f c o is torch's, z r h of r z n.
GATE_ORDER = {1: [0], 3: [1, 0, 2], 4: [0, 1, 2, 3]}
T, B, I, H = 8, 4, 5, 6

pytestmark = pytest.mark.filterwarnings(  # Keras with the torch backend and NumPy 2
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


def reordered(w: Any, gates: int) -> Any:
    """Rows of gates between torch's order and Keras's (the permutations are their own inverse)."""
    return w.reshape(gates, H, *w.shape[1:])[GATE_ORDER[gates]].reshape(w.shape)


def keras_layer(cell: str, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any) -> Any:
    """A Keras layer with these weights; it has one bias where the two act alike."""
    options = {"return_sequences": True, "return_state": True, "dtype": "float32"}
    if cell.startswith("gru"):
        layer = keras.layers.GRU(H, reset_after=cell == "gru", **options)
    elif cell == "lstm":
        layer = keras.layers.LSTM(H, **options)
    else:
        layer = keras.layers.SimpleRNN(H, activation=cell.removeprefix("rnn_"), **options)
    layer.build((B, T, I))
    w_ih, w_hh, b_ih, b_hh = (reordered(w, GATES[cell]) for w in (w_ih, w_hh, b_ih, b_hh))
    bias = np.stack([b_ih, b_hh]) if cell == "gru" else b_ih + b_hh
    layer.set_weights([w_ih.T, w_hh.T, bias])
    return layer


@pytest.mark.parametrize("feature", [{"state": True}, {"mask": True}], ids=["state", "mask"])
@pytest.mark.parametrize("cell", CELLS)
def test_forward_matches_keras(cell: str, feature: dict[str, bool]) -> None:
    case = make_case(cell, T, B, I, H, np.float32, batch_first=True, **feature)
    x, *weights, h0, c0 = (
        case.inputs.get(name) for name in ("x", "w_ih", "w_hh", "b_ih", "b_hh", "h0", "c0")
    )
    initial = [s for s in (h0, c0) if s is not None] or None
    layer = keras_layer(cell, *weights)
    theirs = layer(x, mask=case.inputs.get("mask"), initial_state=initial)
    theirs = [keras.ops.convert_to_numpy(array) for array in theirs]
    y, final, _ = functions(reference, cell).forward(**case.inputs)
    for name, a, b in zip(("y", "h_n", "c_n"), theirs, (y, *as_states(final)), strict=False):
        assert_close(a, b, "float32", "forward", T, name=name)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="needs KERAS_BACKEND=torch")
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "mask"])
def test_gradients_of_reset_before_gru_match_keras(masked: bool) -> None:
    import torch

    cell = "gru_reset_before"
    case = make_case(cell, T, B, I, H, np.float32, batch_first=True, mask=masked)
    if masked:  # before a row's first step Keras's output is zero, not the initial state
        case.inputs["mask"][:, 0] = True
    x, *weights = (case.inputs[name] for name in ("x", "w_ih", "w_hh", "b_ih", "b_hh"))
    h0 = np.zeros((B, H), np.float32)
    layer = keras_layer(cell, *weights)
    tx, th0 = (torch.tensor(a, requires_grad=True) for a in (x, h0))
    y, h_n = layer(tx, mask=case.inputs.get("mask"), initial_state=th0)
    dy, dh_n = (torch.tensor(d) for d in case.cotangents.values())
    ((y * dy).sum() + (h_n * dh_n).sum()).backward()
    dw_ih, dw_hh, db = (v.value.grad.numpy() for v in layer.trainable_variables)

    forward, backward, _ = functions(reference, cell)
    _, _, saved = forward(**case.inputs, h0=h0)
    expected = backward(saved, **case.cotangents)
    theirs = reference.GRUGradients(
        tx.grad.numpy(),
        reordered(dw_ih.T, 3),
        reordered(dw_hh.T, 3),
        reordered(db, 3),
        reordered(db, 3),
        th0.grad.numpy(),
    )
    assert_gradients_close(theirs, expected, "float32", T)
