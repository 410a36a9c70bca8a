"""Interleaved rounds: each contestant once a round, so that all see the same moments."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

_SHORTEST_SAMPLE = 1e-2  # seconds; calls are repeated to reach it
_PAUSE = 5e-3  # seconds before a sample: the threads of the one before spin for a while
_ROUNDS = 5, 200  # at least, at most


class Timing(NamedTuple):
    """Seconds a call: the median of the rounds, and half their interquartile range."""

    median: float
    spread: float
    rounds: int


def interleaved(calls: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, Timing]:
    """Time all calls, for about `seconds` together. Garbage is collected before, not meanwhile."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        return _interleaved(calls, seconds)
    finally:
        if enabled:
            gc.enable()


def _interleaved(calls: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, Timing]:
    start = time.perf_counter()
    repeats = {name: _repeats(call) for name, call in calls.items()}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    rounds = 0
    while rounds < _ROUNDS[0] or (rounds < _ROUNDS[1] and time.perf_counter() - start < seconds):
        for name, call in calls.items():
            samples[name].append(_sample(call, repeats[name]))
        rounds += 1
    return {name: _summary(values) for name, values in samples.items()}


def _repeats(call: Callable[[], Any]) -> int:
    return max(1, round(_SHORTEST_SAMPLE / max(_sample(call, 2), 1e-7)))


def _sample(call: Callable[[], Any], repeats: int) -> float:
    time.sleep(_PAUSE)
    if repeats > 1:
        call()  # wakes this one's threads and fills the caches; a long call does not notice
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def _summary(values: list[float]) -> Timing:
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
    return Timing(float(median), float(high - low) / 2, len(values))
