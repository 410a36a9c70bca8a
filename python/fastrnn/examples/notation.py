"""The lecture's notation, written out: an RNN and back-propagation through time, line by line, on
the named-entity sentence, and every number beside fastrnn's.

    a<0> = 0
    a<t> = tanh(W_aa a<t-1> + W_ax x<t> + b_a)            w_hh, w_ih, b_ih of fastrnn; b_hh = 0
    yhat<t> = sigmoid(W_ya a<t> + b_y)
    L = sum over t of  -y<t> log yhat<t> - (1 - y<t>) log(1 - yhat<t>)

Then some updates teach it to mark the names; and two sentences that begin alike show why an RNN in
one direction cannot mark them all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import fastrnn

from .shared import Goal, panels, progress, save

Array = npt.NDArray[np.float64]
Parameters = dict[str, Array]

SENTENCE = "Harry Potter and Hermione Granger invented a new spell .".split()
IS_NAME = [1, 1, 0, 1, 1, 0, 0, 0, 0, 0]
PRESIDENT = "He said , Teddy Roosevelt was a great president .".split()
BEARS = "He said , Teddy bears are on sale .".split()
VOCABULARY = sorted({*SENTENCE, *PRESIDENT, *BEARS})
UNITS = 8


def one_hot(sentence: list[str]) -> Array:
    """x<1> .. x<T_x>: (T, V), a single 1 in each row."""
    return np.eye(len(VOCABULARY))[[VOCABULARY.index(word) for word in sentence]]


def sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


def forward(p: Parameters, x: Array) -> tuple[Array, Array]:
    """a<0> .. a<T> as (T + 1, H), yhat<1> .. yhat<T> as (T,)."""
    a, yhat = np.zeros((len(x) + 1, UNITS)), np.zeros(len(x))
    for t in range(1, len(x) + 1):
        a[t] = np.tanh(p["W_aa"] @ a[t - 1] + p["W_ax"] @ x[t - 1] + p["b_a"])
        yhat[t - 1] = sigmoid(p["W_ya"] @ a[t] + p["b_y"]).item()
    return a, yhat


def backward(p: Parameters, x: Array, y: Array, a: Array, yhat: Array) -> Parameters:
    """Back-propagation through time: dL/d of every parameter, and of every x<t> and a<t>."""
    g = {name: np.zeros_like(value) for name, value in p.items()}
    dx, da = np.zeros_like(x), np.zeros_like(a)
    da_next = np.zeros(UNITS)  # what comes back from step t + 1
    for t in range(len(x), 0, -1):
        dz_y = yhat[t - 1] - y[t - 1]  # of the sigmoid and its cross-entropy together
        g["W_ya"] += dz_y * a[t]
        g["b_y"] += dz_y
        da[t] = dz_y * p["W_ya"][0] + da_next
        dz = (1 - a[t] ** 2) * da[t]  # through the tanh
        g["W_aa"] += np.outer(dz, a[t - 1])
        g["W_ax"] += np.outer(dz, x[t - 1])
        g["b_a"] += dz
        dx[t - 1] = p["W_ax"].T @ dz
        da_next = p["W_aa"].T @ dz
    return g | {"x": dx, "a": da[1:]}


def with_fastrnn(p: Parameters, x: Array, y: Array) -> tuple[Array, Array, Parameters]:
    """The same by one call forward and one back, T x 1 x V."""
    a, _, saved = fastrnn.rnn_forward(x[:, None], p["W_ax"], p["W_aa"], p["b_a"])
    yhat = sigmoid(a[:, 0] @ p["W_ya"][0] + p["b_y"])
    dz_y = yhat - y
    back: Any = fastrnn.rnn_backward(saved, dz_y[:, None, None] * p["W_ya"], return_step_norms=True)
    g = {"W_aa": back.dw_hh, "W_ax": back.dw_ih, "b_a": back.db_ih, "x": back.dx[:, 0]}
    g |= {"W_ya": dz_y[None] @ a[:, 0], "b_y": dz_y.sum(keepdims=True)}
    return a[:, 0], yhat, g | {"|a|": back.step_norms[:, 0]}


def train(p: Parameters, sentences: list[tuple[list[str], list[int]]], updates: int) -> Array:
    """Gradient descent with fastrnn; the loss of each update."""
    losses = np.zeros(updates)
    for update in progress(range(updates)):
        for sentence, names in sentences:
            y = np.array(names, float)
            _, yhat, g = with_fastrnn(p, one_hot(sentence), y)
            losses[update] -= np.log(np.where(y == 1, yhat, 1 - yhat)).sum()
            for name in p:
                p[name] = p[name] - 0.1 * g[name]
    return losses


def main(quick: bool, picture: Path) -> list[Goal]:
    rng = np.random.default_rng(0)
    shapes = {"W_aa": (UNITS, UNITS), "W_ax": (UNITS, len(VOCABULARY)), "b_a": (UNITS,)}
    shapes |= {"W_ya": (1, UNITS), "b_y": (1,)}
    p = {name: rng.normal(0, 0.4, shape) for name, shape in shapes.items()}
    x, y = one_hot(SENTENCE), np.array(IS_NAME, float)

    a, yhat = forward(p, x)
    g = backward(p, x, y, a, yhat)
    a_fast, yhat_fast, g_fast = with_fastrnn(p, x, y)
    g["|a|"] = np.linalg.norm(g.pop("a"), axis=1)  # fastrnn gives the norm of each step's
    print("        x<t>   yhat<t>  |dL/da<t>|   fastrnn's")
    for t, word in enumerate(SENTENCE):
        numbers = yhat[t], g["|a|"][t], yhat_fast[t], g_fast["|a|"][t]
        print(f"{word:>12}" + "  {:8.6f}  {:8.6f}   {:8.6f}  {:8.6f}".format(*numbers))
    same = [(a[1:], a_fast), (yhat, yhat_fast), *((g[name], g_fast[name]) for name in g)]
    difference = max(float(np.abs(ours - theirs).max()) for ours, theirs in same)
    count = sum(ours.size for ours, _ in same)

    teddy = 3  # which word is Teddy
    president, bears = [0, 0, 0, 1, 1, 0, 0, 0, 0, 0], [0] * len(BEARS)
    losses = train(p, [(SENTENCE, IS_NAME), (PRESIDENT, president), (BEARS, bears)], 400)
    learned = forward(p, x)[1]
    one_way = [forward(p, one_hot(s))[1][teddy] for s in (PRESIDENT, BEARS)]
    layer = fastrnn.RNN(len(VOCABULARY), UNITS, bidirectional=True, dtype=np.float64, seed=0)
    both = [layer.forward(one_hot(s)[:, None])[0][teddy, 0] for s in (PRESIDENT, BEARS)]

    figure, ((left, middle, right),) = panels(1, 3, 12, 3.6)
    left.imshow(a[1:].T, cmap="coolwarm", vmin=-1, vmax=1, aspect="auto")
    left.set_title("a<t>, before training", fontsize=10)
    middle.bar(np.arange(len(SENTENCE)) - 0.2, yhat, 0.4, label="before training")
    middle.bar(np.arange(len(SENTENCE)) + 0.2, learned, 0.4, label="after")
    middle.set_title("yhat<t>: is it part of a name?", fontsize=10)
    middle.legend(fontsize=8)
    for panel in (left, middle):
        panel.set_xticks(range(len(SENTENCE)), SENTENCE, rotation=60, fontsize=8)
    right.semilogy(losses)
    right.axhline(2 * np.log(2), color="grey", linewidth=0.8)  # Teddy is a name every other time
    right.set_title("grey: the least that one way can reach", fontsize=10)
    right.set_xlabel("updates")
    right.set_ylabel("L of three sentences")
    save(figure, picture)

    right_words = np.mean((learned > 0.5) == (y == 1))
    apart = float(np.abs(both[0] - both[1]).max())
    return [
        Goal(f"largest difference of {count} numbers from fastrnn's", difference, 1e-12, True),
        Goal("share of words marked rightly after training", float(right_words), 1.0),
        Goal("Teddy, one way: difference of yhat", abs(one_way[0] - one_way[1]), 0.0, True),
        Goal("Teddy, both ways: difference of the states", apart, 0.01),
    ]
