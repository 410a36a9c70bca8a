"""Run the benchmark: compare results, time those that agree, print the table, write the JSON."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from .. import backends, get_num_threads
from ..atomic import write_atomically
from ..info import processor
from . import report
from .cases import CELLS, MODES, SUITES, choose
from .compared import compared
from .floor import Machine, floor, level, measure
from .peers import contestants
from .problem import Peer, Problem, make_problem


def run(
    *,
    cells: Sequence[str] | None = None,
    modes: Sequence[str] | None = None,
    cases: Sequence[str] | None = None,
    peers: Sequence[str] | None = None,
    seconds: float = 1.0,
    json_path: Path | None = None,
) -> int:
    """Print the table. Returns 1 if a peer's results differ from ours, else 0.

    `cases` are names of cases or suites. `json_path` is a file, or a folder to write a file to that
    is named after date and commit.

    Raises ValueError for a malformed case, OSError if the JSON cannot be written, and
    KeyboardInterrupt after Ctrl-C, when what was measured has been written.
    """
    chosen = SUITES["all"] if cases is None else choose(tuple(cases))
    if json_path is not None and not (json_path.is_dir() or json_path.absolute().parent.is_dir()):
        raise FileNotFoundError(2, "no such folder to save to", str(json_path))
    busy = os.getloadavg()[0]
    threads = get_num_threads()
    found, missing = contestants(threads, peers)
    machine = measure(threads)
    figures = _machine(found, missing, machine) | {"load_before": busy, "results": []}
    print(report.preamble(figures))
    print(report.header([peer.name for peer in found]))
    lines = [
        (cell, mode, case)
        for cell in cells or CELLS
        for mode in modes or MODES
        for case in chosen
        if mode in case.modes
    ]
    stopped = False
    try:
        for cell, mode, case in tqdm(lines, leave=False, disable=None):
            result = _line(found, make_problem(cell, case), mode, seconds, machine)
            figures["results"].append(result)
            tqdm.write(report.row(result, [peer.name for peer in found]))
    except KeyboardInterrupt:
        stopped = True
    if figures["results"]:
        print(report.summary(figures["results"]))
    if json_path is not None:
        path = json_path / _file_name(figures) if json_path.is_dir() else json_path
        write_atomically(path, (json.dumps(figures, indent=1) + "\n").encode())
        print(f"written to {path}")
    if stopped:
        raise KeyboardInterrupt
    return 1 if any(result["differ"] for result in figures["results"]) else 0


def _line(
    found: Sequence[Peer], problem: Problem, mode: str, seconds: float, machine: Machine
) -> dict[str, Any]:
    line = compared(found, problem, mode, seconds)
    least = floor(problem.cell, problem.case, mode, machine)
    return {
        "cell": problem.cell,
        "mode": mode,
        "case": problem.case.name,
        "floor": least,
        "seconds": {name: timing._asdict() for name, timing in line.timed.items()},
        "share_of_floor": {name: least / timing.median for name, timing in line.timed.items()},
        "differ": line.differ,
        "unsupported": line.unsupported,
    }


def _machine(found: Sequence[Peer], missing: dict[str, str], machine: Machine) -> dict[str, Any]:
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(),
        "processor": processor(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "threads": machine.threads,
        "backend": os.environ.get("FASTRNN_BACKEND") or backends()[0],
        "versions": {peer.name: peer.version for peer in found} | {"numpy": np.__version__},
        "missing": missing,
        "peak_flops": dict(machine.peak),
        "read_bandwidth": [
            {"bytes": size, "level": level(size), "bytes_per_second": speed}
            for size, speed in machine.bandwidth.items()
        ],
    }


def _commit() -> str | None:
    """The commit of this code, with + where it was changed since; None if it is installed."""

    def git(*arguments: str) -> str:
        here = Path(__file__)
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # or it is not this repository's
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _file_name(figures: dict[str, Any]) -> str:
    moment = figures["date"].partition("+")[0].replace(":", "")
    commit = figures["commit"]
    return f"{moment}-{commit[:12] if commit else 'installed'}.json"
