"""Embedding, recurrent layer, softmax: the probability of each character given those before it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..modules import GRU, LSTM, RNN, Recurrent
from .corpus import Indices

Array = npt.NDArray[np.float32]

_CELLS: dict[str, type[Recurrent[Any]]] = {"lstm": LSTM, "gru": GRU, "rnn": RNN}
_EVALUATION_STEPS = 512


class CharacterModel:
    """The model; parameters are named, shaped and initialised as those of the same model in torch.

    embedding  Embedding(V, embedding): a table look-up is a one-hot vector's product with the table
    rnn        LSTM, GRU or RNN(embedding, hidden, layers, dropout=dropout)
    output     Linear(hidden, V)
    """

    def __init__(
        self,
        vocabulary: str,
        *,
        cell: str = "lstm",
        embedding: int = 64,
        hidden: int = 256,
        layers: int = 1,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.vocabulary = vocabulary
        self.rnn: Recurrent[Any] = _CELLS[cell](
            embedding, hidden, layers, dropout=dropout, seed=seed
        )
        generator = np.random.default_rng([seed, 1])
        bound = 1.0 / math.sqrt(hidden)
        self._own: dict[str, Array] = {
            "embedding.weight": generator.standard_normal((len(vocabulary), embedding), np.float32),
            "output.weight": generator.uniform(-bound, bound, (len(vocabulary), hidden)).astype(
                np.float32
            ),
            "output.bias": generator.uniform(-bound, bound, len(vocabulary)).astype(np.float32),
        }

    @property
    def parameters(self) -> dict[str, Array]:
        return self._own | {f"rnn.{name}": value for name, value in self.rnn.parameters.items()}

    @property
    def size(self) -> int:
        """How many numbers the parameters are."""
        return sum(value.size for value in self.parameters.values())

    def update(self, values: Mapping[str, Array]) -> None:
        """Set every parameter. The embedding and the output layer share the arrays given; the rnn
        copies.
        """
        self.rnn.update({name: values[f"rnn.{name}"] for name in self.rnn.parameters})
        for name, old in self._own.items():
            if values[name].shape != old.shape:
                raise ValueError(f"{name} must have shape {old.shape}, got {values[name].shape}")
            self._own[name] = values[name]

    def loss_and_gradients(
        self, inputs: Indices, targets: Indices, state: Any
    ) -> tuple[float, Any, dict[str, Array]]:
        """Cross-entropy in nats a character over a chunk, the state after it, and the loss's
        gradients.

        inputs, targets (T, B); back-propagation ends at the chunk's start (truncated BPTT).
        """
        steps, batch = inputs.shape
        count = inputs.size
        x = self._own["embedding.weight"][inputs]
        y, state = self.rnn.forward(x, state, training=True)
        features = y.reshape(count, -1)
        probabilities, loss = self._softmax(features, targets.ravel())

        # d loss / d logits = (softmax - one-hot of the target) / count
        probabilities *= np.float32(1.0 / count)
        probabilities[targets.ravel(), np.arange(count)] -= np.float32(1.0 / count)
        dy = (probabilities.T @ self._own["output.weight"]).reshape(steps, batch, -1)
        gradients = {
            "output.weight": probabilities @ features,
            "output.bias": probabilities.sum(axis=1),
        }
        recurrent = self.rnn.backward(dy)
        gradients |= {f"rnn.{name}": value for name, value in recurrent.parameters.items()}
        one_hot = np.zeros((len(self.vocabulary), count), np.float32)
        one_hot[inputs.ravel(), np.arange(count)] = 1.0
        gradients["embedding.weight"] = one_hot @ recurrent.dx.reshape(count, -1)
        return loss / count, state, gradients

    def bits_per_character(self, text: Indices) -> float:
        """Mean of -log2 p(character | all before it) over text[1:], read as one sequence from a
        zero state.
        """
        total = 0.0
        state: Any = None
        for start in range(0, len(text) - 1, _EVALUATION_STEPS):
            stop = min(start + _EVALUATION_STEPS, len(text) - 1)
            y, state = self.rnn.forward(
                self._own["embedding.weight"][text[start:stop], None], state
            )
            total += self._softmax(y[:, 0], text[start + 1 : stop + 1])[1]
        return total / (len(text) - 1) / math.log(2)

    def step(self, index: int, state: Any) -> tuple[Array, Any]:
        """One character in: the logits (V,) of the next one, and the state."""
        y, state = self.rnn.step(self._own["embedding.weight"][[index]], state)
        return self._own["output.weight"] @ y[0] + self._own["output.bias"], state

    def _softmax(self, features: Array, targets: Indices) -> tuple[Array, float]:
        """Probabilities (V, N) of features (N, H), and the summed cross-entropy of targets (N,) in
        nats.

        Vocabulary first: maxima and sums over it are then whole-row operations.
        """
        logits = self._own["output.weight"] @ features.T
        logits += self._own["output.bias"][:, None]
        logits -= logits.max(axis=0)
        picked = logits[targets, np.arange(len(targets))]
        np.exp(logits, out=logits)
        sums = logits.sum(axis=0)
        logits /= sums
        return logits, float(np.sum(np.log(sums) - picked, dtype=np.float64))
