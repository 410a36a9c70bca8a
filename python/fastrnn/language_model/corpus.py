"""A text as indices into its vocabulary; its last tenth is held out."""

from __future__ import annotations

import hashlib
import os
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.intp]


class Corpus(NamedTuple):
    """A text for training.

    vocabulary  each character of the whole text once, by code point
    train       (n,) indices of the characters of the first nine tenths
    held_out    (m,) those of the rest, n + m the length of the text and m = ceil((n + m) / 10)
    digest      SHA-256 of the text, so that a resumed run knows its own text again
    """

    vocabulary: str
    train: Indices
    held_out: Indices
    digest: str


def default_text() -> Path:
    """The Book of Genesis, King James Version, which comes with fastrnn."""
    return Path(str(resources.files("fastrnn"))) / "data" / "genesis.txt"


def read_corpus(path: str | os.PathLike[str]) -> Corpus:
    """A UTF-8 text file as a corpus. Raises OSError, and ValueError for an empty or undecodable
    file.
    """
    content = Path(path).read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{os.fspath(path)} is not a UTF-8 text: {error}") from None
    if not text:
        raise ValueError(f"{os.fspath(path)} is empty")
    return corpus_of(text.replace("\r\n", "\n"))


def indices_of(path: str | os.PathLike[str], vocabulary: str) -> Indices:
    """A UTF-8 text file in a vocabulary that is given. Raises OSError, and ValueError for a
    character that it lacks.
    """
    own = read_corpus(path)
    places = {character: n for n, character in enumerate(vocabulary)}
    missing = [character for character in own.vocabulary if character not in places]
    if missing:
        raise ValueError(
            f"{os.fspath(path)} has characters that the model does not know: {''.join(missing)!r}"
        )
    table = np.array([places[character] for character in own.vocabulary])
    indices: Indices = table[np.concatenate([own.train, own.held_out])]
    return indices


def corpus_of(text: str) -> Corpus:
    encoded = text.encode("utf-32-le")
    points, indices = np.unique(np.frombuffer(encoded, "<u4"), return_inverse=True)
    cut = len(text) * 9 // 10
    return Corpus(
        vocabulary=points.tobytes().decode("utf-32-le"),
        train=indices[:cut],
        held_out=indices[cut:],
        digest=hashlib.sha256(encoded).hexdigest(),
    )


class Batches:
    """The training text as B rows read side by side, T characters at a time, each next to the one
    before.

    `steps` chunks make one pass; what is left over at the rows' ends (less than a chunk) is not
    used.
    """

    def __init__(self, train: Indices, batch: int, chunk: int) -> None:
        needed = batch * chunk + 1
        if len(train) < needed:
            raise ValueError(
                f"the text is too short: a batch of {batch} rows of {chunk} characters takes "
                f"{needed} to train on, and nine tenths of this text are {len(train)}"
            )
        length = (len(train) - 1) // batch
        self._inputs = np.ascontiguousarray(train[: batch * length].reshape(batch, length).T)
        self._targets = np.ascontiguousarray(train[1 : batch * length + 1].reshape(batch, length).T)
        self._chunk = chunk
        self.steps = length // chunk

    def __getitem__(self, step: int) -> tuple[Indices, Indices]:
        """Inputs and targets (T, B) of a step in the pass."""
        place = slice(step * self._chunk, (step + 1) * self._chunk)
        return self._inputs[place], self._targets[place]
