"""Handwriting recognition: a bidirectional LSTM with peepholes reads pen strokes, trained by CTC.

A. Graves, M. Liwicki et al., "A novel connectionist system for unconstrained handwriting
recognition", IEEE TPAMI 31(5), 2009. The pen's path comes from single-stroke fonts, with another
slant, size, speed and shake for each word; the words are those of Genesis, and those of the test
were never seen. CTC needs no alignment: the network says for each point of the path which letter
it has just read, or none (the blank).
"""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fastrnn.torch
from fastrnn.language_model import default_text

from .shared import Goal, curve, panels, save
from .training import batch_of, train

LETTERS = "abcdefghijklmnopqrstuvwxyz"
FONTS = ("scripts", "futural", "cursive", "rowmans")
Strokes = list[np.ndarray[Any, Any]]


@cache
def strokes_of(font: str, word: str) -> Strokes:
    """The pen's strokes, (points, 2) each; a small letter is 1 high."""
    writer = import_module("HersheyFonts").HersheyFonts()
    writer.load_default_font(font)
    writer.normalize_rendering(1.7)
    return [np.array(list(stroke)) for stroke in writer.strokes_for_text(word)]


def write(word: str, rng: np.random.Generator) -> Strokes:
    """The word as one more person would write it: points about 0.2 apart."""
    strokes = strokes_of(FONTS[rng.integers(len(FONTS))], word)
    slant, turn, speed = rng.normal(0, 0.35), rng.normal(0, 0.07), rng.uniform(0.16, 0.26)
    form = np.array([[rng.uniform(0.7, 1.3), 0], [slant, rng.uniform(0.7, 1.3)]])
    form = form @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    written = []
    for stroke in strokes:
        at = np.append(0, np.hypot(*np.diff(stroke, axis=0).T).cumsum())
        places = np.linspace(0, at[-1], 2 + int(at[-1] / speed))
        path = np.stack([np.interp(places, at, stroke[:, axis]) for axis in (0, 1)], axis=1)
        written.append((path + rng.normal(0, 0.045, path.shape)) @ form)
    return written


def steps_of(strokes: Strokes) -> Tensor:
    """(T, 3): how the pen moved to a point, (dx, dy), and whether it was in the air."""
    points = np.concatenate(strokes)
    moves = np.diff(points, axis=0, prepend=points[:1])
    lifted = np.zeros((len(points), 1))
    lifted[np.cumsum([0, *map(len, strokes[:-1])])] = 1
    return torch.tensor(np.hstack([5 * moves, lifted]), dtype=torch.float32).clamp(-8, 8)


class Reader(torch.nn.Module):
    """The letters' log probabilities at each point: (B, T, 27), the blank first."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.lstm = fastrnn.torch.LSTM(
            3, units, bidirectional=True, batch_first=True, peephole=True
        )
        self.output = torch.nn.Linear(2 * units, 1 + len(LETTERS))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        y, _ = self.lstm(x, lengths=lengths)
        return torch.log_softmax(self.output(y), -1)


def greedy(log_p: np.ndarray[Any, Any]) -> str:
    """The likeliest symbol at each point; repetitions and blanks are left out."""
    best = log_p.argmax(1)
    kept = best[(best != np.append(-1, best[:-1])) & (best > 0)]
    return "".join(LETTERS[k - 1] for k in kept)


def beam(log_p: np.ndarray[Any, Any], width: int = 8) -> str:
    """The likeliest text: the sum over all its alignments, followed for the `width` best beginnings
    (A. Hannun et al., arXiv:1408.2873). A beginning has two probabilities: that the last point was
    a blank, and that it was its last letter.
    """
    beams = {"": (1.0, 0.0)}
    for p in np.exp(log_p):
        after: dict[str, tuple[float, float]] = {}

        def add(text: str, blank: float, letter: float, to: dict[str, Any] = after) -> None:
            before = to.get(text, (0.0, 0.0))
            to[text] = before[0] + blank, before[1] + letter

        for text, (blank, letter) in beams.items():
            last = LETTERS.index(text[-1]) + 1 if text else 0
            add(text, (blank + letter) * p[0], letter * p[last] if text else 0.0)
            for k in np.flatnonzero(p[1:] > 1e-3) + 1:
                add(text + LETTERS[k - 1], 0.0, (blank + (k != last) * letter) * p[k])
        best = sorted(after.items(), key=lambda item: -sum(item[1]))[:width]
        scale = sum(best[0][1])  # keeps the numbers from vanishing
        beams = {text: (a / scale, b / scale) for text, (a, b) in best}
    return next(iter(beams))


def distance(a: str, b: str) -> int:
    """Insertions, deletions and replacements from a to b."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def main(quick: bool, picture: Path) -> list[Goal]:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    words = sorted(set(re.findall(r"\b[a-z]{3,9}\b", default_text().read_text())))
    rng.shuffle(words)
    unseen, known = words[:200], words[200:]
    if quick:
        unseen, known = words[:20], ["and", "the", "god", "said", "was"]
    model = Reader(units=40 if quick else 80)

    def read(texts: list[str]) -> tuple[list[Strokes], Tensor, Tensor]:
        inks = [write(text, rng) for text in texts]
        x, lengths = batch_of([steps_of(ink) for ink in inks])
        return inks, model(x, lengths), lengths

    def loss() -> Tensor:
        texts = [str(w) for w in rng.choice(known, 32)]
        _, log_p, lengths = read(texts)
        wanted = torch.tensor([LETTERS.index(c) + 1 for text in texts for c in text])
        sizes = torch.tensor([len(text) for text in texts])
        loss: Tensor = torch.nn.functional.ctc_loss(log_p.transpose(0, 1), wanted, lengths, sizes)
        return loss

    losses = train(model, loss, 150 if quick else 700, 1e-2)
    tested = known if quick else unseen
    with torch.no_grad():
        inks, log_p, lengths = read(tested)
    rows = [row[:n].double().numpy() for row, n in zip(log_p, lengths, strict=True)]
    readings = [greedy(row) for row in rows], [beam(row) for row in rows]
    errors = [
        sum(map(distance, texts, tested)) / sum(map(len, tested)) for texts in readings
    ]  # of the characters

    figure, grid = panels(4, 2, 8, 7)
    for panel, ink, word, text in zip(grid.flat, inks, tested, readings[1], strict=False):
        for stroke in ink:
            panel.plot(*stroke.T, color="black", linewidth=1)
        panel.set_title(f"{text}" if text == word else f"{text} (for {word})", fontsize=10)
        panel.axis("equal")
        panel.axis("off")
    for panel in grid[3]:
        panel.clear()
        panel.axis("on")
    curve(grid[3, 0], losses, "CTC loss")
    grid[3, 0].set_ylabel("CTC loss")
    grid[3, 1].plot(np.exp(rows[0]))
    grid[3, 1].set_xlabel(f"points of the pen's path: {tested[0]}")
    grid[3, 1].set_ylabel("p(symbol)")
    save(figure, picture)
    wanted = 0.5 if quick else 0.10
    which = "known" if quick else "unseen"
    return [
        Goal(f"character error on {which} words, {kind} decoding", error, wanted, at_most=True)
        for kind, error in zip(("greedy", "beam"), errors, strict=True)
    ]
