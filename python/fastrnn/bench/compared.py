"""A line of a benchmark: contestants whose results are compared before they are timed."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .cases import CELLS, MODES, choose
from .problem import LARGEST_DISAGREEMENT, Peer, Problem, Unsupported, disagreement, make_problem
from .report import geometric_mean
from .timing import Timing, interleaved


class Line(NamedTuple):
    """By the contestants' names."""

    timed: dict[str, Timing]
    differ: dict[str, float]  # units of rounding, -1 for infinitely many
    unsupported: dict[str, str]  # why


def compared(peers: Sequence[Peer], problem: Problem, mode: str, seconds: float) -> Line:
    """Compare the results with the first one's, then time those that agree."""
    calls: dict[str, Callable[[], Any]] = {}
    differ: dict[str, float] = {}
    unsupported: dict[str, str] = {}
    first: list[Any] = []
    for peer in peers:
        try:
            run = peer.prepare(problem, mode)
        except Unsupported as reason:
            unsupported[peer.name] = str(reason)
            continue
        # of a second call, as it is the warm ones that are timed; copied, as it may be overwritten
        run.call()
        results = [np.array(array) for array in run.to_numpy(run.call())]
        first = first or results
        difference = disagreement(problem.case, first, results)
        if difference <= LARGEST_DISAGREEMENT:
            calls[peer.name] = run.call
        else:
            differ[peer.name] = difference if difference < float("inf") else -1.0
    return Line(interleaved(calls, seconds), differ, unsupported)


def versus(
    description: str, make: Callable[[], Sequence[Peer]], cells: Sequence[str] = CELLS
) -> int:
    """The command line of a benchmark in benchmarks/: milliseconds of each contestant, and how many
    times as fast the second is as the first, with the geometric mean and the least of a table.

    Returns 1 if results differ, else 0.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--cell", nargs="+", default=cells, choices=CELLS)
    parser.add_argument("--mode", nargs="+", default=MODES, choices=MODES)
    parser.add_argument("--case", nargs="+", default=["shapes"])
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    peers = make()
    names = [peer.name for peer in peers]
    differs = False
    for cell in options.cell:
        for mode in options.mode:
            print(f"{cell} {mode}: B,T,I,H,L".ljust(26), *(f"{n:>14}" for n in names), " ratio")
            ratios = []
            for case in choose(options.case):
                line = compared(peers, make_problem(cell, case), mode, options.seconds)
                for name, units in line.differ.items():
                    differs = True
                    print(f"{case.name}: {name} differs, by {units:.3g} units of rounding")
                if line.differ or line.unsupported:
                    continue
                times = [1e3 * line.timed[name].median for name in names]
                ratios.append(times[0] / times[1])
                figures = " ".join(f"{time:14.4f}" for time in times)
                print(f"{case.name:26} {figures} {ratios[-1]:6.2f}", flush=True)
            if ratios:
                print(f"geometric mean {geometric_mean(ratios):.2f}, least {min(ratios):.2f}")
    return int(differs)
