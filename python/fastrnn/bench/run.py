"""The table of `fastrnn bench`, and its JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .. import backends, get_num_threads
from ..info import processor
from .cases import CASES, CELLS, MODES, parse
from .peers import Peer, Problem, disagreement, installed, problem
from .timing import Timing, interleaved

# torch and we both round: each may be off by a few units of float32 rounding
_LARGEST_DISAGREEMENT = 16.0


def run(
    *,
    cells: Sequence[str] | None = None,
    modes: Sequence[str] | None = None,
    cases: Sequence[str] | None = None,
    seconds: float = 1.0,
    json_path: Path | None = None,
) -> int:
    """Print the table. Returns 1 if a peer's results differ from ours, else 0.

    Raises ValueError for a malformed case, OSError if the JSON cannot be written.
    """
    chosen = CASES if cases is None else tuple(map(parse, cases))
    peers = installed()
    print(
        f"{processor()}; {get_num_threads()} threads; "
        + ", ".join(f"{peer.name} {peer.version}" for peer in peers)
        + "\nmilliseconds a call: median, and half the interquartile range"
    )
    busy = os.getloadavg()[0]
    if busy > 0.5:
        print(f"other processes keep {busy:.1f} cores busy: the figures are worth little")
    print(_header(peers))
    lines = [
        (cell, mode, case) for cell in cells or CELLS for mode in modes or MODES for case in chosen
    ]
    results = []
    for cell, mode, case in tqdm(lines, leave=False, disable=None):
        timed, agree = _line(peers, problem(cell, case), mode, seconds)
        results.append(
            {
                "cell": cell,
                "mode": mode,
                "case": case._asdict(),
                "agree": agree,
                "seconds": {name: timing._asdict() for name, timing in timed.items()},
            }
        )
        tqdm.write(_row(f"{cell} {mode} {case.name}", timed, agree))
    if json_path is not None:
        figures = _machine(peers) | {"load_before": busy, "results": results}
        json_path.write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if all(result["agree"] for result in results) else 1


def _line(
    peers: Sequence[Peer], task: Problem, mode: str, seconds: float
) -> tuple[dict[str, Timing], bool]:
    """Compare the results, then time."""
    runs = {peer.name: peer.prepare(task) for peer in peers}
    calls = {name: getattr(run, mode) for name, run in runs.items()}
    results = {name: run.to_numpy(calls[name]()) for name, run in runs.items()}
    ours = results[peers[0].name]
    agree = all(
        disagreement(task, ours, theirs) <= _LARGEST_DISAGREEMENT for theirs in results.values()
    )
    return interleaved(calls, seconds), agree


def _header(peers: Sequence[Peer]) -> str:
    columns = "".join(f"{peer.name:>22}" for peer in peers)
    ratios = "".join(f"{'/ ' + peer.name:>10}" for peer in peers[1:])
    return f"{'cell mode B,T,I,H,L':30}{columns}{ratios}"


def _row(name: str, timed: dict[str, Timing], agree: bool) -> str:
    """A line; the last columns are how many times faster we are."""
    columns = "".join(f"{t.median * 1e3:>12.4f} ±{t.spread * 1e3:>8.4f}" for t in timed.values())
    ours, *others = timed.values()
    ratios = "".join(f"{other.median / ours.median:>9.2f}x" for other in others)
    return f"{name:30}{columns}{ratios}{'' if agree else '  RESULTS DIFFER'}"


def _machine(peers: Sequence[Peer]) -> dict[str, Any]:
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "processor": processor(),
        "threads": get_num_threads(),
        "backend": backends()[0],
        "versions": {peer.name: peer.version for peer in peers},
    }
