"""Vanishing and exploding gradients, clipping, and why there are gates. NumPy layers alone.

1. dL/da<t> on its way back through a plain RNN shrinks or grows with every step, as W_aa does:
   Y. Bengio, P. Simard, P. Frasconi, IEEE TNN 5(2), 1994. An LSTM and a GRU can keep it.
2. One exploding gradient ruins what was learned; clipped to a norm, it does no harm: R. Pascanu,
   T. Mikolov, Y. Bengio, ICML 2013.
3. The adding problem over 200 steps (S. Hochreiter, J. Schmidhuber, Neural Computation 9(8), 1997,
   section 5.4): two numbers of a long row are marked, and the answer is their sum. LSTM and GRU
   learn it, the plain RNN goes on guessing the mean, whose squared error is 1/6.
4. The copy task (section 5.1 of A. Graves, G. Wayne, I. Danihelka, arXiv:1410.5401, has a larger
   one): three symbols, a long wait, and then say them in their order. To put each in its place and
   to take it out in turn, the gates have to know what is already there: this needs W_aa.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import fastrnn
from fastrnn.language_model.adam import Adam

from .shared import Goal, curve, panels, progress, save
from .tasks import SYMBOLS, B, adding, copying

Array = npt.NDArray[Any]
Batch = Callable[[np.random.Generator], tuple[Array, Array]]  # x (T, B, I), wanted (K, B, outputs)
H = 32
KEEP = {"GRU": [0, 2, 0], "LSTM": [0, 4, 0, 0], "plain RNN": [0]}  # biases of r z n, of i f g o


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


class Network:
    """A recurrent layer, and outputs read off its last K states: numbers, or scores of symbols."""

    own: dict[str, Array]

    def __init__(self, layer: Any, outputs: int) -> None:
        self.layer = layer
        readout = np.random.default_rng(1).normal(0, 0.1, (H, outputs)).astype(np.float32)
        self.own = {"readout": readout, "bias": np.ones(outputs, np.float32)}

    def loss_and_gradients(self, x: Array, wanted: Array) -> tuple[float, dict[str, Array]]:
        """The squared error of a number, or the cross-entropy of symbols (K, B, outputs)."""
        K, _, outputs = wanted.shape
        y, _ = self.layer.forward(x, training=True)
        out = y[-K:] @ self.own["readout"] + self.own["bias"]
        if outputs == 1:
            loss, dout = np.mean((out - wanted) ** 2), 2 * (out - wanted) / (K * B)
        else:
            p = np.exp(out - out.max(2, keepdims=True))
            p /= p.sum(2, keepdims=True)
            loss, dout = -np.log((p * wanted).sum(2)).mean(), (p - wanted) / (K * B)
        dy = np.zeros_like(y)
        dy[-K:] = dout @ self.own["readout"].T
        own = {"readout": np.einsum("tbh,tbo->ho", y[-K:], dout), "bias": dout.sum((0, 1))}
        return float(loss), {**self.layer.backward(dy).parameters, **own}


def learn(name: str, of: Batch, updates: int, rate: float) -> list[float]:
    """The loss of each update. The gates begin so that they keep the state."""
    rng = np.random.default_rng(0)
    x, wanted = of(rng)
    layer = getattr(fastrnn, name.split()[-1])(x.shape[2], H, seed=0)
    layer.bias_hh_l0 = layer.bias_hh_l0 + np.repeat(np.array(KEEP[name], np.float32), H)
    network, losses = Network(layer, wanted.shape[2]), []
    adam = Adam({**layer.parameters, **network.own})
    network.own = {key: adam.values[key] for key in network.own}
    for _ in progress(range(updates), name):
        loss, gradients = network.loss_and_gradients(*of(rng))
        losses.append(loss)
        adam.step(gradients, rate, clip=1.0)
        layer.update({key: adam.values[key] for key in layer.parameters})
    return losses


def descend(clip: float, updates: int) -> list[float]:
    """Plain gradient descent on an RNN whose gradient explodes: each update's squared error."""
    rng, layer, errors = np.random.default_rng(0), fastrnn.RNN(2, H, nonlinearity="relu"), []
    layer.update({n: np.zeros_like(v) for n, v in layer.parameters.items()})
    layer.weight_hh_l0 = (1.05 * np.eye(H)).astype(np.float32)
    layer.weight_ih_l0 = rng.normal(0, 0.05, (H, 2)).astype(np.float32)
    network = Network(layer, 1)
    for _ in range(updates):
        with np.errstate(all="ignore"):  # without clipping it overflows: that is the point
            error, gradients = network.loss_and_gradients(*adding(50, rng))
            norm = math.sqrt(sum(float(np.sum(g.astype(float) ** 2)) for g in gradients.values()))
            rate = np.float32(0.01 * min(1.0, clip / norm))
            layer.update({n: v - rate * gradients[n] for n, v in layer.parameters.items()})
            network.own = {n: v - rate * gradients[n] for n, v in network.own.items()}
        errors.append(error)
    return errors


def main(quick: bool, picture: Path) -> list[Goal]:
    rng = np.random.default_rng(0)
    cases = [("rnn", 0.9), ("rnn", 1.0), ("rnn", 1.1), ("gru", 4.0), ("lstm", 4.0)]
    paths = {case: norms(*case, 101, rng) for case in cases}
    clipped, free = descend(1.0, 300), descend(math.inf, 300)

    T, wait = (30, 10) if quick else (200, 50)
    sums, copies = (
        {name: learn(name, *task) for name in KEEP}
        for task in (
            (lambda rng: adding(T, rng), 400 if quick else 2000, 1e-2),
            (lambda rng: copying(wait, rng), 1000 if quick else 3000, 1e-2 if quick else 2e-2),
        )
    )
    added, said = ({n: float(np.mean(v[-50:])) for n, v in ls.items()} for ls in (sums, copies))

    figure, ((left, middle), (adds, copied)) = panels(2, 2, 11, 7)
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
    for panel, losses, guess in ((adds, sums, 1 / 6), (copied, copies, math.log(SYMBOLS))):
        for name, values in losses.items():
            curve(panel, values, name, 50)
        panel.axhline(guess, color="grey", linewidth=0.8, label="guessing")
        panel.legend(fontsize=8)
    adds.set_ylabel(f"squared error, adding problem, T = {T}")
    copied.set_ylabel(f"cross-entropy, copy after a wait of {wait}")
    save(figure, picture)

    goals = [
        Goal("gradient 100 steps back, RNN with W_aa 0.9", paths["rnn", 0.9][100], 1e-4, True),
        Goal("gradient 100 steps back, RNN with W_aa 1.1", paths["rnn", 1.1][100], 1e3),
        Goal("gradient 100 steps back, LSTM", paths["lstm", 4.0][100], 0.05),
        Goal("gradient 100 steps back, GRU", paths["gru", 4.0][100], 0.05),
        Goal("error of gradient descent, clipped", float(np.mean(clipped[-50:])), 0.3, True),
        Goal("error of gradient descent, as it is", float(np.nan_to_num(max(free), nan=1e9)), 1e3),
    ]
    tasks = (f"adding problem, T = {T}", added, 0.01), (f"copy after a wait of {wait}", said, 0.1)
    for task, reached, solved in tasks:
        goals += [Goal(f"{task}, {n}", reached[n], solved, at_most=True) for n in ("LSTM", "GRU")]
        if not quick:
            goals.append(Goal(f"{task}, plain RNN", reached["plain RNN"], 10 * solved))
    return goals
