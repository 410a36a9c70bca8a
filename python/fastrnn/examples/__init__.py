"""The lecture on recurrent networks as programs: `fastrnn example NAME`.

Each is a module with main(quick, picture): it trains on data that comes along or is made by the
program, saves a picture, and returns its goals with the figures that it reached. With `quick` it
takes seconds and has easier goals. The same numbers come out of each run on one machine.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from .shared import Goal

SUMMARIES = {
    "notation": "RNN and BPTT in the lecture's notation, every number beside fastrnn's",
    "forget_gate": "the gate that erases at a full stop, by hand and learned",
    "gradients": "vanishing, exploding, clipping; LSTM and GRU against the plain RNN",
    "next_word": "a language model over the words of Genesis",
    "stacked": "one to four layers of LSTM on Genesis, with the same budget",
    "sentiment": "many-to-one: is a review praise?",
    "ner": "T_x = T_y: names of people, places and companies",
    "music": "one-to-many: tunes from their metre",
    "seq2seq": "T_x != T_y: dates in many languages to ISO 8601",
    "handwriting": "pen strokes to words: bidirectional LSTM with peepholes, and CTC",
    "series": "sunspots and carbon dioxide, the next value from those before",
}


def run(name: str, quick: bool, picture: Path) -> list[Goal]:
    """Run one of SUMMARIES. Raises ImportError where a package that it needs is not installed."""
    module = import_module(f".{name}", __name__)
    goals: list[Goal] = module.main(quick, picture)
    return goals
