"""A character language model on the NumPy layers: what `fastrnn train` and `fastrnn sample` run.

I. Sutskever, J. Martens, G. Hinton, "Generating text with recurrent neural networks", ICML 2011;
A. Graves, "Generating sequences with recurrent neural networks", arXiv:1308.0850 (2013), section 3.
"""

from __future__ import annotations

from .corpus import Corpus, default_text, read_corpus
from .model import CharacterModel
from .run import train
from .sample import generate
from .settings import Settings
from .trainer import Trainer, load_model

__all__ = [
    "CharacterModel",
    "Corpus",
    "Settings",
    "Trainer",
    "default_text",
    "generate",
    "load_model",
    "read_corpus",
    "train",
]
