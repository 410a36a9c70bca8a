"""The paths of the CUDA backend beside each other: us a step of each tile and cluster that fits.

    python benchmarks/gpu_paths.py results.jsonl --seconds 60

A line of JSON is appended for each case and path as soon as it is measured: us a step, forward
and backward, of the kernels that make the recurrence (all of the call's, where it has a kernel a
step), and of the others, which are the products over all steps; from the difference between a long
and a short sequence, so that launches and the weights' way onto the chip count for nothing. Beside
it stands what the backend says of the path, with the model's time of the recurrence. What is
measured here belongs into cuda/persistent/measured.cuh, where it is of one round of clusters or
groups: of as many rows, 8 to each, as the device has at a time.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_bench import kernel_events

import fastrnn

SIZES = ((128, 64), (256, 64), (512, 56), (768, 16), (512, 8), (1024, 32))  # H, B
KINDS = (
    ("lstm", "bfloat16"),
    ("lstm", "float32"),
    ("gru", "bfloat16"),
    ("lstm", "float16"),
    ("gru", "float32"),
    ("rnn_tanh", "bfloat16"),
)
BLOCKS = {
    "block": (1,),
    "spread": (2, 4, 8, 16),
    "wide": (2, 4, 8, 16),
    "group": (16, 32, 64, 128),
    "large": (16, 32, 64, 128),
}
PATHS = ["steps"]
PATHS += [f"persistent {tile} {blocks}" for tile, counts in BLOCKS.items() for blocks in counts]
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1}
REPEATS = 3


@contextlib.contextmanager
def by(path: str) -> Iterator[None]:
    os.environ["FASTRNN_CUDA_PATH"] = path
    try:
        yield
    finally:
        del os.environ["FASTRNN_CUDA_PATH"]


class Calls:
    """Forward and backward of one layer, of any number of steps."""

    def __init__(self, cell: str, dtype: str, hidden: int, batch: int, device: str) -> None:
        self.generator = np.random.default_rng(0)
        self.dtype, self.hidden, self.batch, self.device = dtype, hidden, batch, device
        self.weights = [self.array(GATES[cell] * hidden, hidden) for _ in range(2)]
        name = cell.removesuffix("_tanh")
        self.run_forward = getattr(fastrnn, f"{name}_forward")
        self.run_backward = getattr(fastrnn, f"{name}_backward")

    def array(self, *shape: int) -> torch.Tensor:
        values = self.generator.standard_normal(shape, np.float32) / np.sqrt(self.hidden)
        return torch.from_numpy(values).to(self.device, getattr(torch, self.dtype))

    def of(self, way: str, steps: int) -> Callable[[], Any]:
        x = self.array(steps, self.batch, self.hidden)
        if way == "forward":
            return lambda: self.run_forward(x, *self.weights)
        y, _, saved = self.run_forward(x, *self.weights)
        return lambda: self.run_backward(saved, y)


def microseconds(call: Callable[[], Any], path: str, device: str) -> tuple[float, float]:
    """Of the kernels of the recurrence, and of the others; without a GPU all is the first."""
    with by(path):
        call()
        if device == "cpu":
            start = time.perf_counter()
            call()
            return (time.perf_counter() - start) * 1e6, 0.0
        kernels = kernel_events(call, REPEATS)
    recurrent = [e for e in kernels if path == "steps" or "persistent::" in e.name]
    times = [sum(e.device_time for e in some) / REPEATS for some in (recurrent, kernels)]
    return times[0], times[1] - times[0]


def measure(
    cell: str, dtype: str, hidden: int, batch: int, path: str, steps: tuple[int, int], device: str
) -> dict[str, Any] | None:
    """None where the path can take the case neither forward nor back."""
    record: dict[str, Any] = {"cell": cell, "dtype": dtype, "H": hidden, "B": batch, "path": path}
    calls = Calls(cell, dtype, hidden, batch, device)
    for way in ("forward", "backward"):
        try:
            short, long = (microseconds(calls.of(way, n), path, device) for n in steps)
        except ValueError:  # it has no room for the weights
            continue
        except RuntimeError as problem:
            record["problem"] = f"{way}: {problem}"
            break
        for name, first, last in zip((way, f"others {way}"), short, long, strict=True):
            record[name] = round((last - first) / (steps[1] - steps[0]), 3)
    if "forward" in record and "problem" not in record:
        with by(path):
            record["said"] = calls.of("forward", steps[1])()[2].path
    return record if {"forward", "backward", "problem"} & set(record) else None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--steps", type=int, nargs=2, default=(100, 300))
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args(arguments)
    end = time.monotonic() + options.seconds
    measured = 0
    with options.output.open("a") as file:
        for (cell, dtype), (hidden, batch) in itertools.product(KINDS, SIZES):
            for path in PATHS:
                if time.monotonic() > end:
                    break
                record = measure(
                    cell, dtype, hidden, batch, path, tuple(options.steps), options.device
                )
                if record:
                    measured += 1
                    print(json.dumps(record), file=file, flush=True)
    print(f"{measured} paths measured")
    return 0 if measured else 1


if __name__ == "__main__":
    sys.exit(main())
