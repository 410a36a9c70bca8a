"""The least time that a call can take on this machine.

A recurrent step multiplies by w_hh and has to read it: it takes at least
max(flops / peak, bytes of w_hh / bandwidth of the memory that holds it). The product with the input
is one for all steps, and takes at least flops / peak. Training does three such products for each of
inference: the same, that with the transposed weights, which is as serial, and that of the gradients
of the weights, for all steps at once.

Peak and bandwidth are measured, by all threads at once; each thread of n reads its n-th of w_hh.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from .. import _core
from .cases import GATES, Case

# bytes a thread: 16 KiB, in L1, to 64 MiB, and what lies halfway
_SIZES = tuple(sorted({1 << n for n in range(14, 27)} | {3 << n for n in range(13, 25)}))
_SECONDS = 4e-3  # a sample
_ROUNDS = 5


class Machine(NamedTuple):
    """What all threads together can do."""

    peak: Mapping[str, float]  # flops a second, by dtype
    bandwidth: Mapping[int, float]  # bytes a second, by the bytes that each thread reads
    threads: int

    def read_seconds(self, size: int) -> float:
        """To read `size` bytes once, when they have been read before.

        At the bandwidth of the largest measured size that is not above: a floor must not be too
        high.
        """
        share = size / self.threads
        fitting = [measured for measured in self.bandwidth if measured <= share]
        return size / self.bandwidth[max(fitting, default=min(self.bandwidth))]


def floor(cell: str, case: Case, mode: str, machine: Machine) -> float:
    """Seconds for a call."""
    peak = machine.peak[case.dtype]
    lengths = case.row_lengths()
    steps, rows = int(lengths.max()), int(lengths.sum())  # rows: of all steps
    gates = GATES[cell] * case.hidden_size
    weights = gates * case.hidden_size
    reading = machine.read_seconds(weights * (8 if case.float64 else 4)) * steps
    recurrent = 2 * weights * rows / peak
    widths = [case.input_size] + [case.hidden_size * case.directions] * (case.layers - 1)
    inputs = sum(2 * gates * width * rows / peak for width in widths)
    at_once = inputs + case.layers * recurrent
    step_by_step = inputs + case.layers * max(recurrent, reading)
    return case.directions * (2 * step_by_step + at_once if mode == "train" else step_by_step)


def measure(threads: int) -> Machine:
    """The machine as it is now. The best of a few rounds: what it can, not what it mostly does."""
    with ThreadPoolExecutor(threads) as pool:

        def best(calls: list[Callable[[int], int]]) -> float:
            """Work a second of `calls`, one a thread, which return the work of so many rounds."""
            rounds = 1
            while _own_seconds(calls[0], rounds) < _SECONDS / 2:
                rounds *= 2
            samples = [_seconds(pool, calls, rounds) for _ in range(_ROUNDS)]
            return max(work / seconds for seconds, work in samples)

        def arithmetic(is_double: bool) -> Callable[[int], int]:
            return lambda rounds: _core.probe_multiply_add(rounds, is_double, None)

        def reading(size: int) -> Callable[[int], int]:
            memory = _core.ProbeMemory(size)
            return lambda rounds: memory.read(rounds, None)

        peak = {"float32": best([arithmetic(False)] * threads)}
        peak["float64"] = best([arithmetic(True)] * threads)
        bandwidth = {size: best([reading(size) for _ in range(threads)]) for size in _SIZES}
    return Machine(peak, bandwidth, threads)


def _own_seconds(call: Callable[[int], int], rounds: int) -> float:
    """Of this thread: one that waits for a core does no slow work."""
    start = time.thread_time()
    call(rounds)
    return time.thread_time() - start


def _seconds(
    pool: ThreadPoolExecutor, calls: list[Callable[[int], int]], rounds: int
) -> tuple[float, int]:
    start = time.perf_counter()
    work = sum(pool.map(lambda call: call(rounds), calls))
    return time.perf_counter() - start, work


def level(size: int) -> str:
    """The innermost cache that holds `size` bytes, where the system tells their sizes."""
    for name, key in (("L1", "LEVEL1_DCACHE"), ("L2", "LEVEL2_CACHE"), ("L3", "LEVEL3_CACHE")):
        try:
            capacity = os.sysconf(f"SC_{key}_SIZE")
        except (ValueError, OSError):
            return ""
        if capacity <= 0:
            return ""
        if size <= capacity:
            return name
    return "memory"
