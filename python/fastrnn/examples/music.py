"""Music, one-to-many: from one symbol, the metre, an LSTM writes a tune, note by note, each note
the next one's input.

It learns from some fifty traditional tunes in ABC notation, moved up and down the scale. Nobody
tells it what a bar is; that its bars are full shows that it counts. The tunes that it writes are
saved beside the picture as an .abc file, which any ABC program plays.
"""

from __future__ import annotations

import re
from fractions import Fraction
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fastrnn.torch

from .shared import Goal, curve, panels, save
from .training import batch_of, train

METRES = {"4/4": 8, "3/4": 6, "6/8": 6}  # in eighths
NOTES = [f"{note}," for note in "FGAB"] + list("CDEFGABcdefgab") + [f"{n}'" for n in "cd"]
NOTE = re.compile(r"([A-Ga-gz][,']?)(\d*)(/?\d*)|\|")
END = "end"
Tune = list[str]  # the metre, then notes as C2 or z, and bars


def tunes() -> list[Tune]:
    text = (resources.files("fastrnn") / "data" / "tunes.abc").read_text()
    found = re.findall(r"M:(.*)\n(.*)\n", text)
    return [[metre, *(m[0] for m in NOTE.finditer(music))] for metre, music in found]


def moved(tune: Tune, steps: int) -> Tune | None:
    """The tune so many steps up the scale; None if it leaves the range of NOTES."""
    out = []
    for symbol in tune:
        match = NOTE.fullmatch(symbol)
        if match and match[1] in NOTES:
            place = NOTES.index(match[1]) + steps
            if not 0 <= place < len(NOTES):
                return None
            symbol = NOTES[place] + symbol[len(match[1]) :]
        out.append(symbol)
    return out


def eighths(symbol: str) -> Fraction:
    """How long a note lasts: C is 1, C3 is 3, C/2 is 1/2, C3/2 is 3/2; a bar line, 0."""
    match = NOTE.fullmatch(symbol)
    if not match or not match[1]:
        return Fraction(0)
    return Fraction(int(match[2] or 1), int(match[3][1:] or 2) if match[3] else 1)


def bars(tune: Tune) -> list[Fraction]:
    """How long each bar is, but for the first and the last one, which an upbeat may share."""
    sums, now = [], Fraction(0)
    for symbol in tune[1:]:
        now += eighths(symbol)
        if symbol == "|":
            sums.append(now)
            now = Fraction(0)
    return sums[1:-1]


def engrave(panel: Any, tune: Tune, most: int = 9) -> None:
    """The first bars on a staff: long notes are hollow, short ones flagged, a dash is a rest."""
    lines = [NOTES.index(n) for n in "EGBdf"]
    panel.hlines(lines, -1, 200, color="black", linewidth=0.6)
    now, found = 0.0, 0
    for symbol in tune[1:]:
        length = float(eighths(symbol))
        if symbol == "|":
            panel.vlines(now - 0.5, lines[0], lines[-1], color="black", linewidth=0.8)
            found += 1
            if found == most:
                break
        elif symbol[0] == "z":
            panel.plot([now - 0.2, now + 0.2], [lines[2]] * 2, color="black", linewidth=4)
        else:
            match = NOTE.fullmatch(symbol)
            note = NOTES.index(match[1])  # type: ignore[index]
            side = 1 if note < lines[2] else -1  # the stem goes up or down
            hollow = "white" if length >= 4 else "black"
            panel.plot(now, note, "o", color="black", markersize=6, markerfacecolor=hollow)
            beyond = *range(lines[0] - 2, note - 1, -2), *range(lines[-1] + 2, note + 1, 2)
            panel.hlines(beyond, now - 0.4, now + 0.4, color="black", linewidth=0.6)
            if length < 8:
                stem, end = now + side * 0.2, note + side * 6
                panel.plot([stem, stem], [note, end], color="black", linewidth=1)
            if length < 2:
                panel.plot([stem, stem + 0.5], [end, end - side * 2], color="black", linewidth=1.5)
        now += length
    panel.set_xlim(-1, now)
    panel.set_ylim(lines[0] - 6, lines[-1] + 6)
    panel.set_title(tune[0], loc="left", fontsize=10)
    panel.axis("off")


class Composer(torch.nn.Module):
    """The score of each symbol to come next: (B, T, V)."""

    def __init__(self, symbols: list[str], units: int) -> None:
        super().__init__()
        self.symbols = symbols
        self.embedding = torch.nn.Embedding(len(symbols), 32)
        self.lstm = fastrnn.torch.LSTM(32, units, 2, batch_first=True, dropout=0.3)
        self.output = torch.nn.Linear(units, len(symbols))

    def forward(self, codes: Tensor, lengths: Tensor) -> Tensor:
        y, _ = self.lstm(self.embedding(codes), lengths=lengths)
        scores: Tensor = self.output(y)
        return scores

    @torch.no_grad()
    def compose(self, metre: str, count: int, temperature: float) -> list[Tune]:
        """`count` tunes at once: one symbol in, everything else comes out of the network."""
        codes = torch.full((count, 1), self.symbols.index(metre))
        written, state = [codes], None
        for _ in range(200):
            y, state = self.lstm(self.embedding(codes), state)
            chances = torch.softmax(self.output(y[:, 0]) / temperature, -1)
            codes = torch.multinomial(chances, 1)
            written.append(codes)
        names = [[self.symbols[k] for k in row] for row in torch.cat(written, 1).tolist()]
        return [row[: row.index(END)] if END in row else row for row in names]


def main(quick: bool, picture: Path) -> list[Goal]:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    known = [m for tune in tunes() for k in range(-4, 8) for m in [moved(tune, k)] if m]
    symbols = sorted({symbol for tune in known for symbol in tune} | {END})
    place = {symbol: k for k, symbol in enumerate(symbols)}
    rows = [torch.tensor([place[s] for s in [*tune, END]]) for tune in known]
    model = Composer(symbols, units=64 if quick else 128)

    def loss() -> Tensor:
        codes, lengths = batch_of([rows[k] for k in rng.integers(len(rows), size=16)])
        scores = model(codes[:, :-1], lengths - 1)
        beyond = torch.arange(codes.shape[1] - 1) >= (lengths - 1)[:, None]
        wanted = codes[:, 1:].masked_fill(beyond, -1)
        return torch.nn.functional.cross_entropy(
            scores.flatten(0, 1), wanted.flatten(), ignore_index=-1
        )

    losses = train(model, loss, 120 if quick else 700, 1e-2)
    written = {metre: model.compose(metre, 10, 0.7) for metre in METRES}
    full = [
        length == METRES[metre]
        for metre, composed in written.items()
        for tune in composed
        for length in bars(tune)
    ]
    share = float(np.mean(full)) if full else 0.0

    text = "".join(
        f"X:{n}\nT:Tune {n}\nM:{tune[0]}\nL:1/8\nK:C\n{''.join(tune[1:])}\n\n"
        for n, tune in enumerate((t for composed in written.values() for t in composed), 1)
    )
    picture.with_suffix(".abc").write_text(text)
    print(text[: text.index("X:3")])

    figure, grid = panels(len(METRES) + 1, 1, 10, 7)
    for panel, composed in zip(grid[:, 0], written.values(), strict=False):
        engrave(panel, max(composed, key=lambda tune: len(bars(tune))))
    curve(grid[-1, 0], losses, "train")
    grid[-1, 0].set_ylabel("cross-entropy")
    save(figure, picture)
    if quick:
        return [Goal("cross-entropy of a symbol", float(np.mean(losses[-10:])), 3.6, at_most=True)]
    return [Goal("share of full bars in 30 tunes that it wrote", share, 0.95)]
