"""Stacked LSTMs: one to four layers of the same number of parameters in all, on the same text for
as many updates.

The text is Genesis, a sentence a row; a model says each character from those before it. The layers
are the narrower the more there are, so that what depth brings, or costs, is not a matter of size.

A fresh LSTM's h is about an eighth of the size of its input. A second one that sees it through
weights as small as the first one's passes on less still, and the fourth sees next to nothing: it
stays for long where it began. So the weights by which the upper layers see the layer below begin
EIGHT times larger; four layers that begin as the first one does are shown for comparison.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import fastrnn.torch
from fastrnn.language_model import default_text

from .shared import Goal, curve, panels, save
from .training import batch_of, train

EIGHT = 8.0


class Speller(torch.nn.Module):
    """The score of each character to come next: (B, T, V)."""

    def __init__(self, characters: int, units: int, layers: int, gain: float) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(characters, 32)
        self.lstm = fastrnn.torch.LSTM(32, units, layers, batch_first=True)
        self.output = torch.nn.Linear(units, characters)
        with torch.no_grad():
            for layer in range(1, layers):
                self.lstm.get_parameter(f"weight_ih_l{layer}").mul_(gain)

    def forward(self, codes: Tensor, lengths: Tensor) -> Tensor:
        y, _ = self.lstm(self.embedding(codes), lengths=lengths)
        scores: Tensor = self.output(y)
        return scores


def size(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def widest(characters: int, layers: int, gain: float, budget: int) -> Speller:
    """The model of so many layers that is as wide as the budget of parameters allows."""
    units = 8
    while size(Speller(characters, units + 8, layers, gain)) <= budget:
        units += 8
    torch.manual_seed(0)
    return Speller(characters, units, layers, gain)


def bits(model: Speller, rows: list[Tensor]) -> Tensor:
    """Bits a character of the rows, each of which begins with a mark that is not counted."""
    codes, lengths = batch_of(rows)
    scores = model(codes[:, :-1], lengths - 1)
    beyond = torch.arange(codes.shape[1] - 1) >= (lengths - 1)[:, None]
    wanted = codes[:, 1:].masked_fill(beyond, -1)
    loss = torch.nn.functional.cross_entropy(
        scores.flatten(0, 1), wanted.flatten(), ignore_index=-1
    )
    return loss / math.log(2)


def main(quick: bool, picture: Path) -> list[Goal]:
    text = " ".join(default_text().read_text().split())
    sentences = re.findall(r"[^.?!]+[.?!]", text)
    alphabet = sorted(set(text) | {"\n"})
    place = {character: k for k, character in enumerate(alphabet)}
    rows = [torch.tensor([place[c] for c in "\n" + s.strip()[:200]]) for s in sentences]
    cut = len(rows) * 9 // 10
    known, unseen = rows[:cut], rows[cut:]

    budget, updates = (30_000, 60) if quick else (200_000, 400)
    cases = [(1, EIGHT), (2, EIGHT)] if quick else [(n, EIGHT) for n in (1, 2, 3, 4)] + [(4, 1.0)]
    losses, reached = {}, {}
    for layers, gain in cases:
        rng = np.random.default_rng(0)  # the same batches for each
        model = widest(len(alphabet), layers, gain, budget)
        name = f"{layers} x {model.lstm.hidden_size} units"
        if gain == 1:
            name += ", as torch begins"

        def loss(model: Speller = model, rng: np.random.Generator = rng) -> Tensor:
            return bits(model, [known[k] for k in rng.integers(len(known), size=16)])

        losses[name] = train(model, loss, updates, 1e-2, name)
        with torch.no_grad():
            reached[name] = float(bits(model, unseen))
        print(f"{name}: {size(model):,} parameters, {reached[name]:.3f} bits a character")

    figure, ((left, right),) = panels(1, 2, 10, 3.5)
    for name, values in losses.items():
        curve(left, values, name)
    left.set_ylabel("bits a character, training")
    left.legend(fontsize=8)
    right.bar(list(reached), list(reached.values()))
    right.set_ylabel("bits a character, unseen tenth")
    right.set_ylim(1.5, 4)
    right.tick_params(axis="x", rotation=20, labelsize=8)
    save(figure, picture)
    if quick:
        return [Goal("bits a character, the best", min(reached.values()), 3.5, at_most=True)]
    *depths, plain = reached.values()
    return [
        Goal("bits a character, the best depth", min(depths), 2.0, at_most=True),
        Goal("bits a character, the worst depth", max(depths), 2.1, at_most=True),
        Goal("the same, four layers as torch begins", plain, 3.0),
    ]
