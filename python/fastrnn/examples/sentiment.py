"""Sentiment, many-to-one: a GRU reads a review word by word, and the state after its last word says
whether it is praise.

The reviews are made by a small grammar in which order matters: not turns a word around, and what
follows but outweighs what came before. So counting words, which the network is held against, is not
enough. The test has sentences that training has not, and longer ones.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import fastrnn.torch

from .shared import Goal, curve, panels, save
from .training import batch_of, train

THINGS = "plot film acting music ending food service room hotel book story concert".split()
GOOD = "good great lovely wonderful brilliant charming excellent moving funny superb".split()
BAD = "bad awful dull terrible boring poor dreadful clumsy tedious disappointing".split()
DEGREES = ["", "", "really", "quite", "absolutely", "so"]
NOT = ["not", "never", "hardly"]
Review = tuple[list[str], int]  # the words, and 1 for praise


def clause(praise: bool, rng: np.random.Generator) -> list[str]:
    """the plot was really good; the plot was not bad."""
    turned = rng.random() < 0.4
    words = GOOD if praise != turned else BAD
    middle = rng.choice(NOT) if turned else rng.choice(DEGREES)
    said = ["the", rng.choice(THINGS), "was", middle, rng.choice(words)]
    return [str(word) for word in said if word]


def review(clauses: int, rng: np.random.Generator) -> Review:
    """Clauses joined by and (the same opinion), or by but and although (the opposite one)."""
    praise = bool(rng.integers(2))
    words = clause(praise, rng)
    for _ in range(clauses - 1):
        join = rng.choice(["and", "but", "although"])
        if join == "and":
            words = [*words, ",", "and", *clause(praise, rng)]
        elif join == "but":  # the new clause decides
            words, praise = [*words, ",", "but", *clause(not praise, rng)], not praise
        else:  # although it rained, what was said before still holds
            words = ["although", *clause(not praise, rng), ",", *words]
    return [*words, "."], int(praise)


def corpus(count: int, sizes: list[int], rng: np.random.Generator) -> list[Review]:
    return [review(int(rng.choice(sizes)), rng) for _ in range(count)]


class Judge(torch.nn.Module):
    """How much the words so far are praise: a score for each row and step, (B, T)."""

    def __init__(self, vocabulary: list[str], units: int) -> None:
        super().__init__()
        self.places = {word: k for k, word in enumerate(vocabulary)}
        self.embedding = torch.nn.Embedding(len(vocabulary), 16)
        self.gru = fastrnn.torch.GRU(16, units, batch_first=True)
        self.output = torch.nn.Linear(units, 1)

    def forward(self, texts: list[list[str]]) -> tuple[Tensor, Tensor]:
        """The score of each whole review (B,), and of each of its beginnings (B, T)."""
        codes, lengths = batch_of([torch.tensor([self.places[w] for w in t]) for t in texts])
        y, h_n = self.gru(self.embedding(codes), lengths=lengths)
        return self.output(h_n[0])[:, 0], self.output(y)[:, :, 0]


def accuracy(scores: Tensor, praise: list[int]) -> float:
    return float(((scores > 0) == torch.tensor(praise, dtype=torch.bool)).float().mean())


def main(quick: bool, picture: Path) -> list[Goal]:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    known = corpus(300 if quick else 1000, [1, 2, 3], rng)
    seen = {" ".join(words) for words, _ in known}
    unseen = [r for r in corpus(2000, [2, 3], rng) if " ".join(r[0]) not in seen]
    longer = corpus(1000, [4, 5, 6], rng)
    vocabulary = sorted({word for words, _ in known + unseen + longer for word in words})
    model, counter = Judge(vocabulary, 64), torch.nn.Linear(len(vocabulary), 1)

    def counts(reviews: list[Review]) -> Tensor:
        rows = [torch.tensor([model.places[w] for w in words]) for words, _ in reviews]
        return torch.stack([torch.bincount(r, minlength=len(vocabulary)) for r in rows]).float()

    def loss(counting: bool) -> Tensor:
        chosen = [known[k] for k in rng.integers(len(known), size=64)]
        scores = counter(counts(chosen))[:, 0] if counting else model([w for w, _ in chosen])[0]
        wanted = torch.tensor([float(praise) for _, praise in chosen])
        return torch.nn.functional.binary_cross_entropy_with_logits(scores, wanted)

    updates = 80 if quick else 300
    losses = train(model, lambda: loss(False), updates, 1e-2, "GRU")
    counted_losses = train(counter, lambda: loss(True), updates, 1e-1, "counting")
    with torch.no_grad():
        reached = {}
        for name, reviews in (("unseen", unseen), ("longer", longer)):
            texts, praise = map(list, zip(*reviews, strict=True))
            reached[name] = accuracy(model(texts)[0], praise)
            reached[f"{name}, counting"] = accuracy(counter(counts(reviews))[:, 0], praise)
        shown = [r for r in longer if "but" in r[0] and "not" in r[0]][:2]
        paths = torch.sigmoid(model([words for words, _ in shown])[1])
    print("right: " + ", ".join(f"{name} {share:.3f}" for name, share in reached.items()))

    figure, grid = panels(3, 1, 10, 7)
    for panel, (words, _), path in zip(grid[:, 0], shown, paths, strict=False):
        panel.plot(path[: len(words)], marker=".")
        panel.axhline(0.5, color="grey", linewidth=0.8)
        panel.set_xticks(range(len(words)), words, rotation=70, fontsize=7)
        panel.set_ylabel("p(praise) so far")
        panel.set_ylim(-0.05, 1.05)
    curve(grid[2, 0], losses, "GRU")
    curve(grid[2, 0], counted_losses, "counting words")
    grid[2, 0].set_ylabel("cross-entropy")
    grid[2, 0].legend(fontsize=8)
    save(figure, picture)
    if quick:
        return [Goal("right on unseen reviews", reached["unseen"], 0.8)]
    return [
        Goal("right on unseen reviews", reached["unseen"], 0.99),
        Goal("right on longer reviews than any in training", reached["longer"], 0.95),
        Goal("right by counting words, unseen reviews", reached["unseen, counting"], 0.9, True),
    ]
