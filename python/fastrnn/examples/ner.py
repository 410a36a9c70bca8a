"""Named entities, many-to-many with T_x = T_y: a bidirectional GRU reads a sentence letter by
letter and says of each letter whether it is part of a person's, a place's or a company's name.

The sentences are templates filled with faker's names; no name of the test was seen in training, so
that it must be told by how it is written and by what stands on both sides of it.
"""

from __future__ import annotations

import re
import string
from importlib import import_module
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

import fastrnn.torch

from .shared import Goal, curve, panels, save
from .training import batch_of, train

KINDS = ("other", "person", "place", "company")
LETTERS = string.ascii_letters + string.digits + " .,;:'?!-&"
Entity = tuple[int, int, str]  # [begin, end) and the kind

TEMPLATES = """
{person} and {person} invented a new spell.
Yesterday {person} said that {person} was a great president.
He said that {person} was a great president.
Teddy bears are on sale in {place}.
{company} opened an office in {place}, said {person} on Monday.
The train from {place} to {place} was late again.
On 3 March {person} left {company} for {company}.
Shares of {company} fell by 4 per cent after {person} had resigned.
Where is {person}? In {place}, I think.
Nobody in {place} had heard of {company}.
Dear {person}, thank you for your letter from {place}.
I met {person} in {place} when we both worked for {company}.
In {place} the rain never stops, {person} told me.
{company} will buy {company}, according to {person}.
Ask {person} about the meeting on Tuesday, not {person}.
My friend {person} grew up near {place}.
There is no direct flight between {place} and {place} in January.
The book by {person} sold well; {company} printed it twice.
After lunch {person} drove to {place}.
{person}, who lives in {place}, works for {company}.
A spokesman for {company} declined to comment.
Everybody loves {person}!
Last Friday the mayor of {place} thanked {company}.
Is {place} larger than {place}?
The Monday meeting was moved to Wednesday.
Most people never read the small print.
""".strip().splitlines()


COMMON = set("and Inc LLC Ltd PLC Group Sons North South East West New Lake Port".split())


def names(count: int) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Names of each kind, to train on and to test with: no word but the COMMON ones is in both."""
    fake = import_module("faker").Faker("en_US")
    fake.seed_instance(0)

    def person() -> str:
        return str(fake.first_name() + (" " + fake.last_name() if fake.boolean(60) else ""))

    halves: tuple[dict[str, list[str]], ...] = {}, {}
    for kind, make in {"person": person, "place": fake.city, "company": fake.company}.items():
        for name in sorted({make() for _ in range(count)}):
            sides = {crc32(word.encode()) % 2 for word in set(re.findall(r"\w+", name)) - COMMON}
            if len(sides) == 1:
                halves[sides.pop()].setdefault(kind, []).append(name)
    return halves[0], halves[1]


def sentence(of: dict[str, list[str]], rng: np.random.Generator) -> tuple[str, list[Entity]]:
    text, entities = "", []
    for part in re.split(r"(\{\w+\})", str(rng.choice(TEMPLATES))):
        kind = part.strip("{}")
        if part != kind:
            part = str(rng.choice(of[kind]))
            entities.append((len(text), len(text) + len(part), kind))
        text += part
    return text, entities


class Tagger(torch.nn.Module):
    """The score of each kind for each letter: (B, T, 4)."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(len(LETTERS), 24)
        self.gru = fastrnn.torch.GRU(24, units, bidirectional=True, batch_first=True)
        self.output = torch.nn.Linear(2 * units, len(KINDS))

    def forward(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        rows = [torch.tensor([LETTERS.index(c) for c in text]) for text in texts]
        codes, lengths = batch_of(rows)
        y, _ = self.gru(self.embedding(codes), lengths=lengths)
        scores: Tensor = self.output(y)
        return scores, lengths


def tags(text: str, entities: list[Entity]) -> Tensor:
    row = torch.zeros(len(text), dtype=torch.long)
    for begin, end, kind in entities:
        row[begin:end] = KINDS.index(kind)
    return row


def entities_of(row: Any) -> list[Entity]:
    """Runs of letters of one kind."""
    found, begin = [], 0
    for end in range(1, len(row) + 1):
        if end == len(row) or row[end] != row[begin]:
            if row[begin]:
                found.append((begin, end, KINDS[row[begin]]))
            begin = end
    return found


def main(quick: bool, picture: Path) -> list[Goal]:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    known, unseen = names(count=2000 if quick else 8000)
    model = Tagger(units=32 if quick else 96)

    def loss() -> Tensor:
        texts, wanted = zip(*(sentence(known, rng) for _ in range(32)), strict=True)
        scores, _ = model(texts)
        target, _ = batch_of([tags(t, e) + 1 for t, e in zip(texts, wanted, strict=True)])
        return torch.nn.functional.cross_entropy(  # 0 stands beyond a row's end
            scores.flatten(0, 1), target.flatten() - 1, ignore_index=-1
        )

    losses = train(model, loss, 120 if quick else 400, 1e-2)
    texts, wanted = zip(*(sentence(unseen, rng) for _ in range(500)), strict=True)
    with torch.no_grad():
        scores, lengths = model(texts)
    best = scores.argmax(-1)
    found = [entities_of(row[:n].tolist()) for row, n in zip(best, lengths, strict=True)]
    right = sum(len(set(a) & set(b)) for a, b in zip(found, wanted, strict=True))
    f1 = 2 * right / (sum(map(len, found)) + sum(map(len, wanted)))

    colours = dict(zip(KINDS, ("black", "tab:blue", "tab:green", "tab:red"), strict=True))
    figure, ((left, panel),) = panels(1, 2, 11, 3.5)
    left.axis("off")
    for line, (text, row) in enumerate(zip(texts[:12], found[:12], strict=True)):
        kinds = [KINDS[k] for k in tags(text, row)]
        for place, (letter, kind) in enumerate(zip(text, kinds, strict=True)):
            at = place / 75, 0.94 - line / 12
            left.text(*at, letter, color=colours[kind], family="monospace", fontsize=6.5)
    left.set_title(
        "unseen names: " + ", ".join(f"{c[4:]} {k}" for k, c in list(colours.items())[1:])
    )
    curve(panel, losses, "train")
    panel.set_yscale("log")
    panel.set_ylabel("cross-entropy of a letter")
    save(figure, picture)
    return [Goal("F1 of whole names, unseen ones", f1, 0.3 if quick else 0.95)]
