"""A language model over words, many-to-many: yhat<t> is the probability of the next word given all
before it. NumPy layers alone.

The model, its training and its sampling are those of `fastrnn train`, whose alphabet may be any:
here each word of Genesis is one letter of it. Words that training has once are <unk>. It is held
against the best that counting pairs of words can do, Kneser-Ney smoothing (R. Kneser, H. Ney,
ICASSP 1995), on the last tenth of the text.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np

from fastrnn.language_model import Settings, Trainer, default_text, generate
from fastrnn.language_model.corpus import corpus_of

from .shared import Goal, panels, progress, save

FIRST = 0xE000  # of the code points for private use: word k is the letter FIRST + k


def words_of(text: str) -> list[str]:
    words = re.findall(r"[a-z']+|[.,;:?!]", text.lower())
    count = Counter(words[: len(words) * 9 // 10])
    return [word if count[word] > 1 else "<unk>" for word in words]


def kneser_ney(train: list[str], test: list[str]) -> float:
    """The perplexity of the test words given the word before each, by counts of pairs."""
    pairs, discount = Counter(pairwise(train)), 0.75
    before, followers = Counter(train[:-1]), Counter(a for a, _ in pairs)
    kinds = Counter(b for _, b in pairs)  # after how many different words
    vocabulary = len(set(train) | set(test))
    bits = 0.0
    for a, b in pairwise(test):
        single = (max(kinds[b] - discount, 0) + discount * len(kinds) / vocabulary) / len(pairs)
        kept = max(pairs[a, b] - discount, 0) / before[a]
        bits -= np.log2(kept + discount * followers[a] / before[a] * single)
    return float(2 ** (bits / (len(test) - 1)))


def main(quick: bool, picture: Path) -> list[Goal]:
    words = words_of(default_text().read_text())
    vocabulary = sorted(set(words))
    letter = {word: chr(FIRST + k) for k, word in enumerate(vocabulary)}
    corpus = corpus_of("".join(letter[word] for word in words))
    cut = len(corpus.train)
    counted = kneser_ney(words[:cut], words[cut:])
    print(f"{len(words):,} words, {len(vocabulary):,} different")

    steps, every = (180, 60) if quick else (800, 20)
    trainer = Trainer(
        corpus,
        Settings(
            cell="gru",
            hidden=128,
            layers=1 if quick else 2,
            dropout=0.0 if quick else 0.5,
            embedding=64,
            batch=16,
            chunk=32,
            steps=steps,
            learning_rate=1e-2,
        ),
    )
    losses, held_out = [], []
    bar = progress(range(steps))
    for step in bar:
        losses.append(2 ** trainer.advance())
        if (step + 1) % every == 0:
            held_out.append(2 ** trainer.held_out_bits())
            bar.set_postfix(perplexity=f"{held_out[-1]:.1f}", refresh=False)

    prompt = "and god said ,".split()
    letters = "".join(letter[word] for word in prompt)
    sample = generate(trainer.model, length=60, prompt=letters, temperature=0.7, seed=0)
    text = " ".join([*prompt, *(vocabulary[ord(symbol) - FIRST] for symbol in sample)])
    print(re.sub(r" ([.,;:?!])", r"\1", text))

    figure, ((panel,),) = panels()
    panel.semilogy(np.arange(1, steps + 1), losses, linewidth=0.5, alpha=0.6, label="training")
    panel.semilogy(np.arange(every, steps + 1, every), held_out, label="held-out tenth")
    panel.axhline(counted, color="grey", label="pairs of words, counted")
    panel.set_xlabel("updates")
    panel.set_ylabel("perplexity")
    panel.legend(fontsize=8)
    panel.grid(alpha=0.3)
    save(figure, picture)
    print(f"perplexity of counted pairs {counted:.1f}, of the network {held_out[-1]:.1f}")
    share = held_out[-1] / counted
    return [
        Goal("perplexity relative to that of counted pairs", share, 0.86 if quick else 0.75, True)
    ]
