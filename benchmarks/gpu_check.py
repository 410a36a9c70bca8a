"""The CUDA backend on a GPU: every cell, dtype, shape and feature against the float64 reference.

    python benchmarks/gpu_check.py results.json

writes one record a case, with its largest errors, and returns 1 if a case failed. Seconds are those
of forward and backward together, copies to and from the GPU included.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from shapes import (
    CELLS,
    DTYPES,
    FEATURES,
    LARGE_SHAPES,
    SHAPES,
    Case,
    as_states,
    functions,
    make_case,
    shape_id,
)
from tolerances import assert_close

import fastrnn
from fastrnn import reference

FEATURE_SHAPE = (11, 9, 6, 19)
EXTREME_SHAPES = (
    (0, 3, 4, 5),
    (3, 0, 4, 5),
    (70, 940, 2, 3),  # T*B beyond 65,535, where a grid's second axis ends
    (20, 64, 256, 512),
)


def cases() -> Iterator[tuple[str, type, tuple[int, int, int, int], str]]:
    for cell in CELLS:
        for dtype in DTYPES:
            for shape in (*SHAPES, *EXTREME_SHAPES):
                yield cell, dtype, shape, "state"
            for shape in LARGE_SHAPES:
                yield cell, dtype, shape, "all"
            for feature in FEATURES:
                yield cell, dtype, FEATURE_SHAPE, feature


def results(namespace: Any, case: Case, **options: Any) -> dict[str, Any]:
    """The results of forward and backward by name; gradients are called d..."""
    forward, backward, _ = functions(namespace, case.cell)
    y, state, saved = forward(**case.inputs, **options)
    gradients = backward(saved, **case.cotangents)._asdict()
    states = dict(zip(("h_n", "c_n"), as_states(state), strict=False))
    return {"y": y, **states, **{name: g for name, g in gradients.items() if g is not None}}


def check(case: Case, dtype: type, steps: int, backend: str) -> dict[str, Any]:
    expected = results(reference, case)
    start = time.perf_counter()
    got = results(fastrnn, case, backend=backend)
    record: dict[str, Any] = {"seconds": time.perf_counter() - start, "problems": []}
    again = results(fastrnn, case, backend=backend)
    if any(got[name].tobytes() != again[name].tobytes() for name in got):
        record["problems"].append("a second run gave other bits")
    for name, value in expected.items():
        kind = "gradient" if name.startswith("d") else "forward"
        size = np.abs(value).max(initial=0.0)
        error = np.abs(got[name].astype(np.float64) - value).max(initial=0.0)
        relative = float(error / size) if size > 0 else float(error)
        record[kind] = max(record.get(kind, 0.0), relative)
        try:
            assert_close(got[name], value, dtype, kind, steps, name=name)
        except AssertionError as problem:
            record["problems"].append(str(problem))
    return record


def output_of(*command: str) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="the JSON file to write")
    parser.add_argument("--backend", default="cuda")
    parser.add_argument("--only", default="", help="run the cases with this in their name")
    options = parser.parse_args(arguments)
    records = []
    for cell, dtype, shape, feature in cases():
        name = f"{cell} {dtype.__name__} {shape_id(shape)} {feature}"
        if options.only in name:
            print(name, end="", flush=True)  # a kernel that hangs is to be known
            case = make_case(cell, *shape, dtype, **FEATURES[feature])
            try:
                record = check(case, dtype, shape[0], options.backend)
            except RuntimeError as problem:  # CUDA's: no later call of the process would work
                record = {"problems": [f"RuntimeError: {problem}"]}
            print("", *(record["problems"] or ["ok"]))
            records.append({"case": name, **record})
            if "seconds" not in record:
                break
    failed = [record for record in records if record["problems"]]
    report = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "fastrnn": fastrnn.__version__,
        "commit": output_of("git", "rev-parse", "HEAD"),
        "backend": options.backend,
        "gpu": output_of("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"),
        "cases": len(records),
        "failed": len(failed),
        "records": records,
    }
    options.output.write_text(json.dumps(report, indent=1) + "\n")
    for record in failed:
        print(record["case"], *record["problems"], sep="\n  ")
    print(f"{len(failed)} of {len(records)} cases failed; {options.output}")
    return 1 if failed or not records else 0


if __name__ == "__main__":
    sys.exit(main())
