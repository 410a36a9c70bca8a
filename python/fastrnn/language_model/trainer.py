"""Training state: one step at a time, to a file and back so that a resumed run has the same
numbers.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as safetensors_bytes

from ..atomic import write_atomically
from .adam import Adam
from .corpus import Batches, Corpus
from .model import CharacterModel
from .settings import Settings

_FORMAT = "fastrnn character model 1"


class Trainer:
    """A model, its optimiser, and its place in the text."""

    def __init__(self, corpus: Corpus, settings: Settings) -> None:
        """Raises ValueError if the text is too short for the settings."""
        if len(corpus.held_out) < 2:
            raise ValueError(
                "the text is too short to hold out a tenth of it: 11 characters are the least"
            )
        self.corpus = corpus
        self.settings = settings
        self._batches = Batches(corpus.train, settings.batch, settings.chunk)
        self.model = new_model(settings, corpus.vocabulary)
        self._adam = Adam(self.model.parameters)
        self._state: Any = None

    @property
    def step(self) -> int:
        """Updates so far."""
        return self._adam.steps

    @property
    def finished(self) -> bool:
        return self.step >= self.settings.steps

    def advance(self) -> float:
        """One update. Returns the chunk's loss before it, in bits a character."""
        place = self.step % self._batches.steps
        if place == 0:
            self._state = None
        inputs, targets = self._batches[place]
        loss, self._state, gradients = self.model.loss_and_gradients(inputs, targets, self._state)
        done = self.step / self.settings.steps
        rate = self.settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))
        self._adam.step(gradients, rate, self.settings.clip)
        self.model.update(self._adam.values)
        return loss / math.log(2)

    def held_out_bits(self) -> float:
        """Bits a character on the held-out tenth."""
        return self.model.bits_per_character(self.corpus.held_out)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all that goes on from here; the file is replaced whole or not at all. Raises
        OSError.
        """
        state = self._state if isinstance(self._state, tuple) else (self._state,)
        tensors = dict(self._adam.values)
        tensors |= {"adam.mean": self._adam.mean, "adam.square": self._adam.square}
        tensors |= {f"state.{i}": part for i, part in enumerate(state) if part is not None}
        description = {
            "format": _FORMAT,
            "settings": dataclasses.asdict(self.settings),
            "vocabulary": self.corpus.vocabulary,
            "text": self.corpus.digest,
            "step": self.step,
            "dropout_calls": self.model.rnn.dropout_calls,
        }
        write_atomically(path, safetensors_bytes(tensors, {"fastrnn": json.dumps(description)}))

    @classmethod
    def resume(
        cls, path: str | os.PathLike[str], corpus: Corpus, steps: int | None = None
    ) -> Trainer:
        """The trainer that `save` wrote. `steps` other than None replaces the settings'.

        Raises OSError, and ValueError if the file is no model or was trained on another text.
        """
        description, tensors = _read(path)
        if description["text"] != corpus.digest:
            raise ValueError(f"{os.fspath(path)} was trained on another text")
        settings = Settings(**description["settings"])
        if steps is not None:
            settings = dataclasses.replace(settings, steps=steps)
        trainer = cls(corpus, settings)
        adam = trainer._adam
        for name, value in adam.values.items():
            value[...] = tensors[name]
        adam.mean[...] = tensors["adam.mean"]
        adam.square[...] = tensors["adam.square"]
        adam.steps = description["step"]
        trainer.model.update(adam.values)
        trainer.model.rnn.dropout_calls = description["dropout_calls"]
        state = tuple(tensors[name] for name in ("state.0", "state.1") if name in tensors)
        trainer._state = None if not state else state if len(state) == 2 else state[0]
        return trainer


def new_model(settings: Settings, vocabulary: str) -> CharacterModel:
    return CharacterModel(
        vocabulary,
        cell=settings.cell,
        embedding=settings.embedding,
        hidden=settings.hidden,
        layers=settings.layers,
        dropout=settings.dropout,
        seed=settings.seed,
    )


def load_model(path: str | os.PathLike[str]) -> CharacterModel:
    """The model in a file that Trainer.save wrote.

    Raises OSError, and ValueError if the file is not one.
    """
    description, tensors = _read(path)
    model = new_model(Settings(**description["settings"]), description["vocabulary"])
    model.update(tensors)
    return model


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    with open(path, "rb"):
        pass  # OSError says more than the SafetensorError that would follow
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: np.asarray(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{os.fspath(path)} is damaged or not a model: {error}") from None
    description = json.loads(metadata.get("fastrnn", "{}"))
    if description.get("format") != _FORMAT:
        raise ValueError(f"{os.fspath(path)} is not a model of fastrnn train")
    return description, tensors
