"""Sentiment, many-to-one: a GRU reads a review word by word, and the state after its last word says
whether it is praise.

The reviews are made by a small grammar in which order matters: not turns a word around, and what
follows but outweighs what came before. So counting words, which the network is held against, is not
enough. The test has sentences that training has not, and longer ones.
Where the source of vaderSentiment lies in this folder, a full run learns from real reviews, too:

    pip download --no-deps --no-binary :all: vaderSentiment==3.3.2
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import fastrnn.torch

from .film_reviews import SOURCE, film_reviews
from .shared import Goal, curve, panels, save
from .training import batch_of, train

THINGS = "plot film acting music ending food service room hotel book story concert".split()
GOOD = "good great lovely wonderful brilliant charming excellent moving funny superb".split()
BAD = "bad awful dull terrible boring poor dreadful clumsy tedious disappointing".split()
DEGREES = ["", "", "really", "quite", "absolutely", "so"]
NOT = ["not", "never", "hardly"]
Review = tuple[list[str], int]  # the words, and 1 for praise
UNKNOWN = "<unk>"


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

    def __init__(self, places: dict[str, int], size: int, dropout: float) -> None:
        super().__init__()
        self.places = places
        self.embedding = torch.nn.Embedding(len(places), size)
        self.gru = fastrnn.torch.GRU(size, 64, batch_first=True)
        self.output = torch.nn.Linear(64, 1)
        self.dropout = torch.nn.Dropout(dropout)

    def forward(self, texts: Sequence[list[str]]) -> tuple[Tensor, Tensor]:
        """The score of each whole review (B,), and of each of its beginnings (B, T)."""
        codes, lengths = batch_of([places_of(words, self.places) for words in texts])
        y, h_n = self.gru(self.dropout(self.embedding(codes)), lengths=lengths)
        scores = self.output(self.dropout(y))[:, :, 0]
        return self.output(self.dropout(h_n[0]))[:, 0], scores


def places_of(words: list[str], places: dict[str, int]) -> Tensor:
    return torch.tensor([places.get(word, 0) for word in words])


def learn(
    known: list[Review],
    tests: dict[str, list[Review]],
    updates: int,
    rate: float,
    size: int,
    dropout: float,
) -> tuple[Judge, dict[str, float], dict[str, list[float]]]:
    """A judge, the share of each test's reviews that it and the counting of words get right, and
    the losses of both.
    """
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    count = Counter(word for words, _ in known for word in words)
    vocabulary = [UNKNOWN, *sorted(word for word, n in count.items() if n > 1)]
    places = {word: k for k, word in enumerate(vocabulary)}
    model, counter = Judge(places, size, dropout), torch.nn.Linear(len(places), 1)

    def counted(texts: Sequence[list[str]]) -> Tensor:
        rows = [places_of(words, places).bincount(minlength=len(places)) for words in texts]
        scores: Tensor = counter(torch.stack(rows).float())[:, 0]
        return scores

    def judged(texts: Sequence[list[str]]) -> Tensor:
        scores: Tensor = model(texts)[0]
        return scores

    losses, right = {}, {}
    for name, trained, judge, faster in (
        ("GRU", model, judged, 1),
        ("counting", counter, counted, 5),
    ):

        def loss(judge: Callable[[Sequence[list[str]]], Tensor] = judge) -> Tensor:
            texts, praise = zip(*(known[k] for k in rng.integers(len(known), size=64)), strict=True)
            wanted = torch.tensor(praise, dtype=torch.float32)
            return torch.nn.functional.binary_cross_entropy_with_logits(judge(texts), wanted)

        losses[name] = train(trained, loss, updates, faster * rate, name)
        for test, reviews in tests.items():
            texts, praise = map(list, zip(*reviews, strict=True))
            with torch.no_grad():
                agrees = (judge(texts) > 0) == torch.tensor(praise, dtype=torch.bool)
            right[f"{test}, {name}"] = float(agrees.float().mean())
    print("right: " + ", ".join(f"{name} {share:.3f}" for name, share in right.items()))
    return model, right, losses


def main(quick: bool, picture: Path) -> list[Goal]:
    rng = np.random.default_rng(0)
    known = corpus(300 if quick else 1000, [1, 2, 3], rng)
    seen = {" ".join(words) for words, _ in known}
    unseen = [r for r in corpus(2000, [2, 3], rng) if " ".join(r[0]) not in seen]
    longer = corpus(1000, [4, 5, 6], rng)
    tests = {"unseen": unseen, "longer": longer}
    model, right, losses = learn(known, tests, 140 if quick else 300, 1e-2, 16, 0.0)
    shown = [r for r in longer if "but" in r[0] and "not" in r[0]][:2]
    with torch.no_grad():
        paths = torch.sigmoid(model([words for words, _ in shown])[1])

    figure, grid = panels(3, 1, 10, 7)
    for panel, (words, _), path in zip(grid[:, 0], shown, paths, strict=False):
        panel.plot(path[: len(words)], marker=".")
        panel.axhline(0.5, color="grey", linewidth=0.8)
        panel.set_xticks(range(len(words)), words, rotation=70, fontsize=7)
        panel.set_ylabel("p(praise) so far")
        panel.set_ylim(-0.05, 1.05)
    for name, values in losses.items():
        curve(grid[2, 0], values, name)
    grid[2, 0].set_ylabel("cross-entropy")
    grid[2, 0].legend(fontsize=8)
    save(figure, picture)
    if quick:
        return [Goal("right on unseen reviews", right["unseen, GRU"], 0.9)]
    goals = [
        Goal("right on unseen reviews", right["unseen, GRU"], 0.99),
        Goal("right on longer reviews than any in training", right["longer, GRU"], 0.95),
        Goal("right by counting words, unseen reviews", right["unseen, counting"], 0.9, True),
    ]
    if SOURCE.exists():
        reviews = film_reviews(SOURCE)
        reviews = [reviews[k] for k in rng.permutation(len(reviews))]
        tests = {"film reviews": reviews[:1000]}
        right = learn(reviews[1000:], tests, 1500, 5e-3, 64, 0.5)[1]
        goals.append(Goal("right on unseen film reviews", right["film reviews, GRU"], 0.8))
    return goals
