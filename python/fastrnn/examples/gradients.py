"""Vanishing and exploding gradients, clipping, and why there are gates. NumPy layers alone.

1. dL/da<t> on its way back through a plain RNN shrinks or grows with every step, as W_aa does:
   Y. Bengio, P. Simard, P. Frasconi, IEEE TNN 5(2), 1994. An LSTM and a GRU can keep it.
2. One exploding gradient ruins what was learned; clipped to a norm, it does no harm: R. Pascanu,
   T. Mikolov, Y. Bengio, ICML 2013.
3. The adding problem over 200 steps (S. Hochreiter, J. Schmidhuber, Neural Computation 9(8), 1997,
   section 5.4): two numbers of a long row are marked, and the answer is their sum. LSTM and GRU
   learn it, the plain RNN goes on guessing the mean, whose squared error is 1/6.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import fastrnn
from fastrnn.language_model.adam import Adam

from .shared import Goal, curve, panels, progress, save

Array = npt.NDArray[Any]
B, H = 32, 32


def norms(kind: str, scale: float, T: int, rng: np.random.Generator) -> Array:
    """|dL/da<t>|, relative to that of the last step, by distance from it. The plain RNN's W_aa is
    `scale` times a rotation; in the gated cells `scale` is the bias of the gate that keeps the
    state. x is so small that tanh is all slope.
    """
    gates = {"lstm": 4, "gru": 3, "rnn": 1}[kind]
    w_hh = scale * np.linalg.qr(rng.normal(size=(H, H)))[0]
    bias = np.zeros(gates * H)
    if kind != "rnn":
        w_hh = rng.uniform(-0.5, 0.5, (gates * H, H)) / math.sqrt(H)
        bias[H : 2 * H] = scale  # the forget gate of i f g o; the update gate of r z n
    x, w_ih = 1e-6 * rng.normal(size=(T, B, 2)), rng.normal(size=(gates * H, 2))
    _, _, saved = getattr(fastrnn, f"{kind}_forward")(x, w_ih, w_hh, bias)
    dy = np.zeros((T, B, H))
    dy[-1] = rng.normal(size=(B, H))
    gradients = getattr(fastrnn, f"{kind}_backward")(saved, dy, return_step_norms=True)
    norm: Array = gradients.step_norms.mean(1)[::-1]
    norm /= norm[0]
    return norm


def batch(T: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """x (T, B, 2): a number and a mark; a mark is in each half. The sums (B,) of the marked."""
    x = rng.random((T, B, 2), dtype=np.float32)
    x[:, :, 1] = 0
    for low, high in ((0, T // 2), (T // 2, T)):
        x[rng.integers(low, high, B), np.arange(B), 1] = 1
    return x, (x[:, :, 0] * x[:, :, 1]).sum(0)


class Adder:
    """A recurrent layer, and a number read off its last state."""

    own: dict[str, Array]

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        readout = np.random.default_rng(1).normal(0, 0.1, H).astype(np.float32)
        self.own = {"readout": readout, "bias": np.ones(1, np.float32)}

    def loss_and_gradients(self, x: Array, wanted: Array) -> tuple[float, dict[str, Array]]:
        _, state = self.layer.forward(x, training=True)
        is_pair = isinstance(state, tuple)
        h = (state[0] if is_pair else state)[0]
        error = h @ self.own["readout"] + self.own["bias"] - wanted
        derror = (2 / B * error).astype(np.float32)
        dh = derror[None, :, None] * self.own["readout"]
        gradients = self.layer.backward(None, (dh, np.zeros_like(dh)) if is_pair else dh).parameters
        own = {"readout": derror @ h, "bias": derror.sum(keepdims=True)}
        return float(np.mean(error**2)), {**gradients, **own}


def learn(layer: Any, T: int, updates: int) -> list[float]:
    """The squared error of each update."""
    rng, model, errors = np.random.default_rng(0), Adder(layer), []
    adam = Adam({**layer.parameters, **model.own})
    model.own = {name: adam.values[name] for name in model.own}
    for _ in progress(range(updates), f"{type(layer).__name__}, T = {T}"):
        error, gradients = model.loss_and_gradients(*batch(T, rng))
        errors.append(error)
        adam.step(gradients, learning_rate=1e-2, clip=1.0)
        layer.update({name: adam.values[name] for name in layer.parameters})
    return errors


def descend(clip: float, updates: int) -> list[float]:
    """Plain gradient descent on an RNN whose gradient explodes: each update's squared error."""
    rng, layer, errors = np.random.default_rng(0), fastrnn.RNN(2, H, nonlinearity="relu"), []
    layer.weight_hh_l0 = (1.05 * np.eye(H)).astype(np.float32)
    layer.update({n: np.zeros_like(v) for n, v in layer.parameters.items() if "bias" in n})
    layer.weight_ih_l0 = rng.normal(0, 0.05, (H, 2)).astype(np.float32)
    model = Adder(layer)
    for _ in range(updates):
        with np.errstate(all="ignore"):  # without clipping it overflows: that is the point
            error, gradients = model.loss_and_gradients(*batch(50, rng))
            norm = math.sqrt(sum(float(np.sum(g.astype(float) ** 2)) for g in gradients.values()))
            rate = 0.01 * min(1.0, clip / norm)
            layer.update(
                {n: v - np.float32(rate) * gradients[n] for n, v in layer.parameters.items()}
            )
            model.own = {n: v - np.float32(rate) * gradients[n] for n, v in model.own.items()}
        errors.append(error)
    return errors


def main(quick: bool, picture: Path) -> list[Goal]:
    rng = np.random.default_rng(0)
    cases = [("rnn", 0.9), ("rnn", 1.0), ("rnn", 1.1), ("gru", 4.0), ("lstm", 4.0)]
    paths = {case: norms(*case, 101, rng) for case in cases}
    clipped, free = descend(1.0, 300), descend(math.inf, 300)

    T, updates = (30, 400) if quick else (200, 2000)
    gru, lstm = fastrnn.GRU(2, H, seed=0), fastrnn.LSTM(2, H, forget_bias=4.0, seed=0)
    keep = gru.bias_hh_l0.copy()
    keep[H : 2 * H] = 2.0  # the update gate: keep the state, at first
    gru.bias_hh_l0 = keep
    layers = {"GRU": gru, "LSTM": lstm, "plain RNN": fastrnn.RNN(2, H, seed=0)}
    errors = {name: learn(layer, T, updates) for name, layer in layers.items()}
    last = {name: float(np.mean(values[-50:])) for name, values in errors.items()}

    figure, ((left, middle, right),) = panels(1, 3, 11, 3.5)
    for (kind, scale), path in paths.items():
        of = "W_aa" if kind == "rnn" else "bias"
        left.semilogy(path, label=f"{kind}, {of} {scale:g}")
    left.set_xlabel("steps back from the loss")
    left.set_ylabel("|dL/da|, relative")
    left.set_ylim(1e-6, 1e6)
    left.legend(fontsize=8)
    middle.semilogy(np.minimum(np.nan_to_num(free, nan=1e9), 1e9), label="as it is")
    middle.semilogy(clipped, label="clipped to norm 1")
    middle.set_xlabel("updates of an exploding RNN")
    middle.set_ylabel("squared error")
    middle.legend(fontsize=8)
    for name, values in errors.items():
        curve(right, values, name, 50)
    right.axhline(1 / 6, color="grey", linewidth=0.8)
    right.set_ylabel(f"squared error, adding problem, T = {T}")
    right.legend(fontsize=8)
    save(figure, picture)

    good, bad = 0.01, 0.1
    goals = [
        Goal("gradient 100 steps back, RNN with W_aa 0.9", paths["rnn", 0.9][100], 1e-4, True),
        Goal("gradient 100 steps back, RNN with W_aa 1.1", paths["rnn", 1.1][100], 1e3),
        Goal("gradient 100 steps back, LSTM", paths["lstm", 4.0][100], 0.05),
        Goal("gradient 100 steps back, GRU", paths["gru", 4.0][100], 0.05),
        Goal("error of gradient descent, clipped", float(np.mean(clipped[-50:])), 0.3, True),
        Goal("error of gradient descent, as it is", float(np.nan_to_num(max(free), nan=1e9)), 1e3),
        Goal(f"adding problem, T = {T}, LSTM", last["LSTM"], good, True),
        Goal(f"adding problem, T = {T}, GRU", last["GRU"], good, True),
    ]
    return goals if quick else [*goals, Goal("the same, plain RNN", last["plain RNN"], bad)]
