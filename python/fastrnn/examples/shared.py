"""What the programs share: goals, a progress bar, pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm


class Goal(NamedTuple):
    """A figure that a run reached, beside the one that it was to reach."""

    what: str
    reached: float
    wanted: float
    at_most: bool = False

    @property
    def met(self) -> bool:
        a, b = (self.reached, self.wanted) if self.at_most else (self.wanted, self.reached)
        return bool(a <= b)  # of numpy's numbers, too, a bool that JSON takes

    def __str__(self) -> str:
        side = "at most" if self.at_most else "at least"
        miss = "" if self.met else ": MISSED"
        return f"{self.what}: {self.reached:.4g} (goal: {side} {self.wanted:g}){miss}"


def progress(steps: Iterable[Any], what: str = "") -> Any:
    """The steps, with a bar on stderr where that is a terminal."""
    return tqdm(steps, desc=what or None, unit="step", dynamic_ncols=True, disable=None)


def panels(rows: int = 1, columns: int = 1, width: float = 7.0, height: float = 3.5) -> Any:
    """A new matplotlib figure, and its rows x columns panels as an array; save it by savefig."""
    figure = import_module("matplotlib.figure").Figure((width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def curve(panel: Any, values: Sequence[float], label: str, window: int = 20) -> None:
    """A learning curve: the mean of every `window` values, the last ones whole."""
    window = max(1, min(window, len(values) // 10))
    means = np.convolve(values, np.full(window, 1 / window), "valid")
    panel.plot(np.arange(len(means)) + window, means, label=label, linewidth=1.2)
    panel.set_xlabel("updates")
    panel.grid(alpha=0.3)


def save(figure: Any, picture: Path) -> None:
    """Write a figure; the format is that of the name's suffix. OSError, ValueError."""
    metadata = {"Date": None} if picture.suffix == ".svg" else {}  # the same bytes for the same run
    import_module("matplotlib").rcParams["svg.hashsalt"] = "fastrnn"
    figure.savefig(picture, dpi=110, metadata=metadata)
