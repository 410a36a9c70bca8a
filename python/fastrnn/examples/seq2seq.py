"""Sequence to sequence: dates as people write them in many languages, to ISO 8601.

I. Sutskever, O. Vinyals, Q. V. Le, "Sequence to sequence learning with neural networks", NIPS 2014:
one LSTM reads the source backwards, a second one starts from its state and writes the target, which
a beam search decodes. There is no attention: everything that is written went through that state.
"""

from __future__ import annotations

import datetime
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import fastrnn.torch

from .shared import Goal, curve, panels, save
from .training import batch_of, train

LOCALES = ("en", "de", "fr", "es", "it", "pt", "nl", "sv", "da", "fi", "pl", "cs", "tr", "id")
TARGET = "^$0123456789-"  # begin, end, and what a date is made of
State = tuple[Tensor, Tensor]
FIRST, DAYS = datetime.date(1900, 1, 1), 73_000  # to 2099


def write(day: int, locale: str, form: str) -> str:
    """The date `day` days after FIRST in the words of a language, in lower case."""
    date = FIRST + datetime.timedelta(day)
    text: str = import_module("babel.dates").format_date(date, form, locale)
    return text.lower()


def pairs(days: np.ndarray, rng: np.random.Generator) -> list[tuple[str, str]]:
    """(as people write it, ISO) for each day, in a language and a form drawn by chance."""
    forms = rng.choice(["full", "long", "medium"], len(days))
    languages = rng.choice(LOCALES, len(days))
    return [
        (write(int(day), str(locale), str(form)), str(FIRST + datetime.timedelta(int(day))))
        for day, locale, form in zip(days, languages, forms, strict=True)
    ]


class Translator(torch.nn.Module):
    """Two LSTMs; the state of the first one after the whole source is where the second begins."""

    def __init__(self, letters: str, units: int) -> None:
        super().__init__()
        self.letters = letters
        self.source = torch.nn.Embedding(len(letters), 32)
        self.target = torch.nn.Embedding(len(TARGET), 32)
        self.encoder = fastrnn.torch.LSTM(32, units, batch_first=True)
        self.decoder = fastrnn.torch.LSTM(32, units, batch_first=True)
        self.output = torch.nn.Linear(units, len(TARGET))

    def encode(self, texts: list[str]) -> State:
        """The state after the texts, read backwards."""
        rows = [torch.tensor([self.letters.index(c) for c in text[::-1]]) for text in texts]
        codes, lengths = batch_of(rows)
        state: State = self.encoder(self.source(codes), lengths=lengths)[1]
        return state

    def decode(self, codes: Tensor, state: State) -> tuple[Tensor, State]:
        """What follows each of the target's symbols (B, T): log probabilities, and the state."""
        y, state = self.decoder(self.target(codes), state)
        return torch.log_softmax(self.output(y), -1), state


def target_of(texts: list[str]) -> Tensor:
    return torch.tensor([[TARGET.index(c) for c in f"^{text}$"] for text in texts])


def beam(model: Translator, texts: list[str], width: int) -> list[str]:
    """The likeliest targets: the `width` best beginnings of every text go on together."""
    B, V = len(texts), len(TARGET)
    h, c = (s.repeat_interleave(width, 1) for s in model.encode(texts))
    codes = torch.full((B * width, 1), TARGET.index("^"))
    scores = torch.full((B, width), -torch.inf)
    scores[:, 0] = 0.0  # the beginnings are all the same at first: only one counts
    ended = torch.full((V,), -torch.inf)
    ended[TARGET.index("$")] = 0.0  # after the end comes the end, at no cost
    for _ in range(len("2000-01-01$")):
        log_p, (h, c) = model.decode(codes[:, -1:], (h, c))
        log_p = torch.where(codes[:, -1:] == TARGET.index("$"), ended, log_p[:, 0])
        sums = scores[:, :, None] + log_p.view(B, width, V)
        scores, best = sums.flatten(1).topk(width)
        rows = (best // V + width * torch.arange(B)[:, None]).flatten()
        codes = torch.cat([codes[rows], (best % V).view(-1, 1)], 1)
        h, c = h[:, rows], c[:, rows]
    return ["".join(TARGET[k] for k in row[1:]).rstrip("$") for row in codes[::width].tolist()]


def main(quick: bool, picture: Path) -> list[Goal]:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    days = rng.permutation(DAYS)
    known, unseen = days[1000:], days[:1000]
    letters = sorted({c for text, _ in pairs(known[:20_000], rng) for c in text})
    model = Translator("".join(letters), units=64 if quick else 256)

    def loss() -> Tensor:
        sources, targets = map(list, zip(*pairs(rng.choice(known, 64), rng), strict=True))
        wanted = target_of(targets)
        log_p, _ = model.decode(wanted[:, :-1], model.encode(sources))
        return torch.nn.functional.nll_loss(log_p.flatten(0, 1), wanted[:, 1:].flatten())

    losses = train(model, loss, 200 if quick else 1000, 3e-3)
    tested = pairs(unseen[: 50 if quick else 1000], rng)
    sources, targets = map(list, zip(*tested, strict=True))
    with torch.no_grad():
        written = {width: beam(model, sources, width) for width in (1, 5)}
    exact = {w: np.mean(np.array(found) == targets) for w, found in written.items()}
    for source, target in list(zip(sources, written[5], strict=True))[:10]:
        print(f"{source:>32}  {target}")

    figure, ((panel,),) = panels()
    curve(panel, losses, "train")
    panel.set_yscale("log")
    panel.set_ylabel("cross-entropy of a symbol")
    save(figure, picture)
    if quick:
        return [Goal("cross-entropy of a symbol", losses[-1], 1.2, at_most=True)]
    return [Goal(f"dates exactly right, beam of {w}", float(exact[w]), 0.98) for w in exact]
