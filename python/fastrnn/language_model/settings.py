"""What a training run is made of; each field is also an option of `fastrnn train`."""

from __future__ import annotations

import dataclasses
from typing import Any


def _setting(default: Any, text: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": text})


@dataclasses.dataclass(frozen=True)
class Settings:
    """A training run's settings. Raises ValueError for a value out of range."""

    cell: str = _setting("lstm", "lstm, gru or rnn")
    hidden: int = _setting(256, "units of a layer")
    layers: int = _setting(1, "layers")
    embedding: int = _setting(64, "size of a character's embedding")
    dropout: float = _setting(0.0, "dropout between layers")
    batch: int = _setting(32, "rows of text read side by side")
    chunk: int = _setting(64, "characters of a row between two updates: truncated BPTT")
    steps: int = _setting(800, "updates in all")
    learning_rate: float = _setting(7e-3, "of the first update; it falls to 0 along half a cosine")
    clip: float = _setting(1.0, "largest norm of the gradient")
    seed: int = _setting(0, "for the initial parameters and dropout")

    def __post_init__(self) -> None:
        for name in ("hidden", "layers", "embedding", "batch", "chunk", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.cell not in ("lstm", "gru", "rnn"):
            raise ValueError(f"cell must be lstm, gru or rnn, got {self.cell}")
        if not 0.0 <= self.dropout <= 1.0:
            raise ValueError(f"dropout must be in [0, 1], got {self.dropout}")
        if self.dropout and self.layers == 1:
            raise ValueError("dropout acts between layers: it needs at least 2 of them")
        for name in ("learning_rate", "clip"):
            if not getattr(self, name) > 0.0:  # NaN too
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed must be in [0, 2**64), got {self.seed}")
