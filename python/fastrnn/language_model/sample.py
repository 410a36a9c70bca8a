"""Text drawn from a character model, one character at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from .model import CharacterModel


def generate(
    model: CharacterModel,
    *,
    length: int,
    prompt: str = "",
    temperature: float = 1.0,
    seed: int | None = None,
) -> Iterator[str]:
    """`length` characters that follow `prompt` (after an empty one: a line's start).

    Each is drawn from softmax(logits / temperature); temperature 0 takes the likeliest.
    Raises ValueError for a prompt with characters that the model does not know.
    """
    unknown = sorted(set(prompt) - set(model.vocabulary))
    if unknown:
        shown = " ".join(map(repr, unknown))
        raise ValueError(f"the prompt has characters that the model's text had not: {shown}")
    if not prompt:
        prompt = "\n" if "\n" in model.vocabulary else model.vocabulary[0]
    return _characters(model, length, prompt, temperature, np.random.default_rng(seed))


def _characters(
    model: CharacterModel,
    length: int,
    prompt: str,
    temperature: float,
    generator: np.random.Generator,
) -> Iterator[str]:
    state = None
    for character in prompt:
        logits, state = model.step(model.vocabulary.index(character), state)
    for _ in range(length):
        index = _draw(logits, temperature, generator)
        yield model.vocabulary[index]
        logits, state = model.step(index, state)


def _draw(
    logits: npt.NDArray[np.float32], temperature: float, generator: np.random.Generator
) -> int:
    likeliest = int(logits.argmax())
    if temperature == 0.0:
        return likeliest
    with np.errstate(over="ignore"):  # a tiny temperature makes -inf of all but the likeliest
        weights = np.exp((logits.astype(np.float64) - logits[likeliest]) / temperature)
    cumulative = weights.cumsum()
    return int(np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right"))
