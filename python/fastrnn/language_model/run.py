"""The training loop that a user watches: progress bar, regular saving, a clean end on Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from tqdm import tqdm

from .trainer import Trainer

_SECONDS_BETWEEN_SAVES = 10.0


class Interruption:
    """Within it, the first SIGINT or SIGTERM is only noted, in `number`; a second one acts as
    usual.

    A step is then never cut in half, and what is saved is what an uninterrupted run would have had.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        signal.signal(number, self._before[number])


def train(
    trainer: Trainer, path: str | os.PathLike[str], seconds: float | None = None
) -> int | None:
    """Train to the settings' last step, for `seconds` at most, and save to `path` on the way and
    last.

    Returns the number of the signal that ended it, or None. Raises OSError if it cannot save.
    """
    start = saved = time.monotonic()
    average = None
    with (
        Interruption() as interruption,
        tqdm(
            total=trainer.settings.steps,
            initial=trainer.step,
            unit="step",
            dynamic_ncols=True,
            disable=None,  # where stderr is no terminal
        ) as bar,
    ):
        while not trainer.finished and interruption.number is None:
            bits = trainer.advance()
            average = bits if average is None else 0.95 * average + 0.05 * bits
            bar.set_postfix_str(f"{average:.3f} bits/character", refresh=False)
            bar.update()
            now = time.monotonic()
            if seconds is not None and now - start >= seconds:
                break
            if now - saved >= _SECONDS_BETWEEN_SAVES:
                trainer.save(path)
                saved = now
        trainer.save(path)
    return interruption.number
