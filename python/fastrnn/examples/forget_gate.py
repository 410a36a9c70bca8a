"""The forget gate: an LSTM that remembers until the full stop, first by weights set by hand, then
by weights that it learned. NumPy layers alone.

By hand, as in the lecture: f<t> = sigmoid(W_f [h<t-1>, x<t>] + b_f), where [h, x] is one vector and
W_f its one matrix; fastrnn has the same two blocks apart, w_hh and w_ih. W_f looks at the full stop
alone: there f = [0, 0], and the cell is empty; at every other symbol f = [1, 1], and the cell is
kept.

Learned: Genesis word by word; after each word the network says how many words this sentence has so
far. It has to count, and to begin anew after the full stop, whatever the count was: only a forget
gate that shuts can do that.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import fastrnn
from fastrnn.language_model import default_text
from fastrnn.language_model.adam import Adam

from .shared import Goal, curve, panels, progress, save

Array = npt.NDArray[Any]
STOP, MOST = ".", 40


def by_hand(symbols: str) -> tuple[Array, Array]:
    """f<t> and c<t>, (T, 2) each, of an LSTM of two units that reads a, b and the full stop: its
    cell is [whether there was an a, whether there was a b] since the last stop.
    """
    big = 30.0  # sigmoid(30) is 1 and sigmoid(-30) is 0, to 13 digits
    #            h<t-1>   a     b    .
    W_f = np.array([[0, 0, big, big, -big], [0, 0, big, big, -big]])
    W_i = np.array([[0, 0, big, -big, -big], [0, 0, -big, big, -big]])
    W_c = np.array([[0, 0, big, big, big], [0, 0, big, big, big]])
    W_o = np.array([[0, 0, big, big, big], [0, 0, big, big, big]])
    W = np.concatenate([W_i, W_f, W_c, W_o])  # fastrnn's order: i f g o
    w_hh, w_ih = W[:, :2].copy(), W[:, 2:].copy()  # [h, x]: the first columns are h's
    x = np.eye(3)[["ab.".index(s) for s in symbols]][:, None]
    _, _, _, c, gates = fastrnn.lstm_forward(
        x, w_ih, w_hh, return_cell_sequence=True, return_gates=True
    )
    return gates[:, 0, 1], c[:, 0]


def genesis() -> tuple[Array, Array, list[str]]:
    """x (N, 2): is it a word, is it a full stop; how many words (N,) the sentence has so far, at
    most MOST; and the words.
    """
    words = re.findall(r"[A-Za-z']+|[.?!]", default_text().read_text())
    words = [STOP if word in "?!" else word for word in words]
    count, counts = 0, []
    for word in words:
        count = 0 if word == STOP else min(count + 1, MOST)
        counts.append(count)
    x = np.eye(2, dtype=np.float32)[[int(word == STOP) for word in words]]
    return x, np.array(counts, np.float32), words


def train(layer: fastrnn.LSTM, x: Array, y: Array, updates: int) -> tuple[dict[str, Array], Any]:
    """The squared error by Adam, on pieces of different length; the read-out and the losses."""
    rng, longest, B = np.random.default_rng(0), 80, 32
    readout = {"w": np.ones(2, np.float32), "b": np.zeros(1, np.float32)}
    adam, losses = Adam({**layer.parameters, **readout}), []
    readout = {name: adam.values[name] for name in readout}
    starts = np.flatnonzero(y[:-longest] == 0)  # a piece begins with a full stop
    for update in progress(range(updates)):
        at, lengths = rng.choice(starts, B), rng.integers(20, longest + 1, B)
        index = at + np.arange(longest)[:, None]
        weight = np.arange(longest)[:, None] < lengths
        h, _ = layer.forward(x[index], lengths=lengths, training=True)
        error = (h @ readout["w"] + readout["b"] - y[index] / MOST) * weight
        losses.append(float((error**2).sum() / weight.sum()))
        derror = (error * 2 / weight.sum()).astype(np.float32)
        gradients = layer.backward(derror[:, :, None] * readout["w"]).parameters
        own = {"w": np.einsum("tb,tbh->h", derror, h), "b": derror.sum(keepdims=True).ravel()}
        adam.step({**gradients, **own}, 4e-2 * (1 - update / updates), clip=1.0)
        layer.update({name: adam.values[name] for name in layer.parameters})
    return readout, losses


def main(quick: bool, picture: Path) -> list[Goal]:
    symbols = "aab.b.ab"
    f, c = by_hand(symbols)
    print("   x<t>   f<t>           c<t>")
    for symbol, gate, cell in zip(symbols, f, c, strict=True):
        print(f"{symbol:>6}     [{gate[0]:.0f}, {gate[1]:.0f}]   [{cell[0]:6.3f}, {cell[1]:6.3f}]")
    stops = np.array([s == STOP for s in symbols])

    x, y, words = genesis()
    layer = fastrnn.LSTM(2, 2, forget_bias=2.0, seed=0)
    cut = len(x) * 9 // 10
    readout, losses = train(layer, x[:cut], y[:cut], 200 if quick else 1500)
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    h, _, _, gates = fastrnn.lstm_forward(
        x[cut:, None],
        *(layer.parameters[n] for n in names),
        return_gates=True,
    )
    counted = MOST * (h[:, 0] @ readout["w"] + readout["b"])
    error = float(np.sqrt(np.mean((counted - y[cut:]) ** 2)))
    learned, at_stop = gates[:, 0, 1], x[cut:, 1] > 0
    erased = float(learned[at_stop].mean(axis=0).min())
    kept = float(learned[~at_stop].mean(axis=0).max())

    ends = np.flatnonzero(at_stop)
    some = int(np.argmin(np.abs(ends[3:] - ends[:-3] - 80)))  # three sentences of 80 words
    first, last = ends[some], ends[some + 3]
    shown = slice(first, last + 1)
    figure, ((top,), (middle,), (bottom,)) = panels(3, 1, 11, 7)
    top.plot(learned[shown], marker=".", label=["f, unit 1", "f, unit 2"])
    top.set_title("the learned forget gate, on text that was not trained on", fontsize=10)
    middle.plot(y[cut:][shown], color="black", label="words so far")
    middle.plot(counted[shown], color="tab:red", marker=".", label="the network's count")
    middle.set_xticks(range(last + 1 - first), words[cut:][shown], rotation=90, fontsize=8)
    curve(bottom, losses, "squared error, of 1 for 40 words")
    bottom.set_yscale("log")
    for panel in (top, middle, bottom):
        panel.legend(fontsize=8)
    save(figure, picture)
    return [
        Goal("by hand, f at a full stop", float(f[stops].max()), 1e-12, at_most=True),
        Goal("by hand, f elsewhere", float(f[~stops].min()), 1 - 1e-12),
        Goal("by hand, c after a full stop", float(np.abs(c[stops]).max()), 1e-12, at_most=True),
        Goal("learned: error of the count, in words", error, 5 if quick else 1.5, at_most=True),
        Goal(
            "learned, mean f at full stops, of the unit that forgets more",
            erased,
            0.35 if quick else 0.25,
            True,
        ),
        Goal("learned, mean f elsewhere, of the unit that keeps more", kept, 0.8),
    ]
