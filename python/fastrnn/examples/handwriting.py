"""Handwriting: a bidirectional LSTM with peepholes follows the pen, and CTC finds the letters.

A. Graves, M. Liwicki, S. Fernandez, R. Bertolami, H. Bunke, J. Schmidhuber, "A novel connectionist
system for unconstrained handwriting recognition", IEEE TPAMI 31(5), 2009. Nobody says where in the
ink a letter is: the loss is that of the word, summed over all ways to write its letters, with
blanks between them, along the strokes (A. Graves et al., ICML 2006). The strokes are those of
Hershey's single-line fonts, each word in a hand of its own: slant, size, speed, tremor.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import fastrnn.torch
from fastrnn.language_model import default_text

from .shared import Goal, curve, panels, save
from .training import batch_of, train

Array = npt.NDArray[Any]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
BLANK = 0  # CTC's; letter k of LETTERS is k + 1
FONTS = ("futural", "rowmans", "cursive", "scripts")
HEIGHT = 9.0  # of an x in the fonts' units
Strokes = list[Array]  # (n, 2) each: where the pen went before it was lifted


def glyphs(name: str) -> dict[str, Strokes]:
    """Each letter of a font."""
    font = import_module("HersheyFonts").HersheyFonts()
    font.load_default_font(name)
    strokes = {c: [np.array(s) / HEIGHT for s in font.strokes_for_text(c)] for c in LETTERS}
    return {c: [s for s in glyph if len(s) > 1] for c, glyph in strokes.items()}


def write(word: str, font: dict[str, Strokes], rng: np.random.Generator) -> Strokes:
    """The word in a hand drawn by chance, in heights of an x."""
    slant, wide, tremor = rng.uniform(-0.3, 0.7), rng.uniform(0.75, 1.3), rng.uniform(0, 0.06)
    waves, phase = rng.uniform(0.5, 3.0, (2, 2)), rng.uniform(0, 2 * np.pi, 2)
    strokes, at = [], 0.0
    for glyph in map(font.__getitem__, word):
        for stroke in glyph:
            x, y = (stroke * rng.normal(1, 0.1)).T * [[wide], [-1]] + [[at], [0]]
            bent = 0.12 * np.sin(np.stack([x, y], 1) @ waves + phase)
            points = np.stack([x + slant * y, y], 1) + bent
            strokes.append(points + rng.normal(0, tremor, points.shape))
        at += wide * max(stroke[:, 0].max() for stroke in glyph)
    return strokes


def pen(strokes: Strokes, rng: np.random.Generator) -> Tensor:
    """What a tablet tells, (T, 3): how far the pen went since the last moment, and whether it came
    through the air.
    """
    speed, points = rng.uniform(0.35, 0.5), []
    for stroke in strokes:
        along = np.insert(np.hypot(*np.diff(stroke, axis=0).T).cumsum(), 0, 0.0)
        moments = np.linspace(0, along[-1], max(2, math.ceil(along[-1] / speed)))
        xy = [np.interp(moments, along, stroke[:, k]) for k in (0, 1)]
        points.append(np.stack([*xy, moments == 0], 1))
    row = np.concatenate(points)
    row[:, :2] = np.diff(row[:, :2], axis=0, prepend=row[:1, :2]) / 0.4
    return torch.tensor(row, dtype=torch.float32)


class Reader(torch.nn.Module):
    """log p of the blank and of each letter at each moment: (B, T, 27), and the lengths."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.lstm = fastrnn.torch.LSTM(
            3, units, batch_first=True, bidirectional=True, peephole=True
        )
        self.output = torch.nn.Linear(2 * units, 1 + len(LETTERS))

    def forward(self, rows: list[Tensor]) -> tuple[Tensor, Tensor]:
        x, lengths = batch_of(rows)
        y, _ = self.lstm(x, lengths=lengths)
        return torch.log_softmax(self.output(y), -1), lengths


def greedy(log_p: Array) -> str:
    """The likeliest label of each moment (T, 27); runs of one label count once, blanks not."""
    return "".join(LETTERS[k - 1] for k, _ in groupby(log_p.argmax(1)) if k != BLANK)


def beam(log_p: Array, width: int) -> str:
    """Prefix beam search: the likeliest word, summed over the ways to write it in T moments."""
    words = {"": (1.0, 0.0)}  # p of each beginning, with a blank last and with its last letter last
    for p in np.exp(log_p):
        longer: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for word, (blank, ink) in words.items():
            longer[word][0] += (blank + ink) * p[BLANK]
            for k in np.flatnonzero(p[1:] > 1e-3):
                letter = LETTERS[k]
                again = word.endswith(letter)  # then it is a new one only after a blank
                longer[word + letter][1] += (blank if again else blank + ink) * p[k + 1]
                if again:
                    longer[word][1] += ink * p[k + 1]
        best = sorted(longer.items(), key=lambda item: -sum(item[1]))[:width]
        total = sum(sum(chances) for _, chances in best)
        words = {word: (blank / total, ink / total) for word, (blank, ink) in best}
    return max(words, key=lambda word: sum(words[word]))


def edits(a: str, b: str) -> int:
    """How many letters to insert, delete or change to make b of a (Levenshtein's distance)."""
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        longer = [i]
        for j, other in enumerate(b, 1):
            longer.append(min(row[j] + 1, longer[-1] + 1, row[j - 1] + (letter != other)))
        row = longer
    return row[-1]


def draw(panel: Any, strokes: Strokes, word: str, read: str) -> None:
    for stroke in strokes:
        panel.plot(*stroke.T, color="black", linewidth=1)
    panel.set_aspect("equal")
    panel.axis("off")
    panel.set_title(read, color="tab:green" if read == word else "tab:red", fontsize=10)


def main(quick: bool, picture: Path) -> list[Goal]:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    fonts = [glyphs(name) for name in (FONTS[:1] if quick else FONTS)]
    words = re.findall(r"\b[a-z]{2,9}\b", default_text().read_text())
    words = sorted({word for word in words if len(word) < 5 or not quick})
    known, unseen = np.split(rng.permutation(words), [-100 if quick else -500])
    model = Reader(units=48 if quick else 96)

    def hand(word: str) -> Strokes:
        return write(word, fonts[rng.integers(len(fonts))], rng)

    def loss() -> Tensor:
        chosen = rng.choice(known, 32)
        log_p, lengths = model([pen(hand(word), rng) for word in chosen])
        labels = torch.tensor([LETTERS.index(letter) + 1 for letter in "".join(chosen)])
        sizes = torch.tensor([len(word) for word in chosen])
        return torch.nn.functional.ctc_loss(log_p.transpose(0, 1), labels, lengths, sizes)

    losses = train(model, loss, *((400, 2e-2) if quick else (1000, 1e-2)))
    inks = [hand(word) for word in unseen]
    with torch.no_grad():
        log_p, lengths = model([pen(ink, rng) for ink in inks])
    rows = [row[:n].numpy() for row, n in zip(log_p, lengths, strict=True)]
    read = {"greedy": [greedy(row) for row in rows], "beam of 8": [beam(row, 8) for row in rows]}
    wrong = {how: sum(map(edits, unseen, r)) / sum(map(len, unseen)) for how, r in read.items()}

    figure, grid = panels(5, 3, 11, 8)
    for k, panel in enumerate(grid[:4].flat):
        draw(panel, inks[k], unseen[k], read["beam of 8"][k])
    for panel, chances in zip(grid[4, :2], rows[9:11], strict=True):
        for k, path in enumerate(np.exp(chances.T)):
            panel.plot(path, color="lightgrey" if k == BLANK else None, linewidth=1)
            if k != BLANK and path.max() > 0.3:
                panel.text(path.argmax(), path.max(), LETTERS[k - 1])
        panel.set_title("p of blank and letters, word above", fontsize=9)
    curve(grid[4, 2], losses, "train")
    grid[4, 2].set_yscale("log")
    grid[4, 2].set_ylabel("-log p of a letter")
    save(figure, picture)
    goal = 0.25 if quick else 0.05
    return [Goal(f"letters wrong, {how}", error, goal, True) for how, error in wrong.items()]
