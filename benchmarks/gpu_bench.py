"""fastrnn.torch against torch.nn on a GPU, case by case, for as long as the time lasts.

    python benchmarks/gpu_bench.py results.jsonl --seconds 200

A line of JSON is appended for each case, mode and library as soon as it is measured: median and
quartiles of the time of a call by CUDA events, largest difference from torch.nn's result, and, of
a call of each, the names of its kernels with their counts (torch.profiler): as many launches as
steps mean one product a step. `infer` is the forward pass without gradients, `train` is forward and
backward. A case that fails is a line too. The order of the libraries alternates.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpu_cases
import torch

WARM_UP, LEAST, MOST = 10, 30, 200  # calls
BUDGET = 0.5  # seconds for the calls of one line


def problem(case: gpu_cases.Case) -> tuple[torch.nn.Module, Any]:
    """torch.nn's module and its input."""
    torch.manual_seed(0)
    dtype = torch.float32 if case.dtype == "tf32" else getattr(torch, case.dtype)
    kind = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}[case.cell]
    module = kind(
        case.hidden, case.hidden, case.layers, bidirectional=case.bidirectional, device="cuda"
    ).to(dtype)
    x = torch.randn(case.steps, case.batch, case.hidden, device="cuda").to(dtype)
    if not case.packed:
        return module, x.requires_grad_()
    lengths = torch.randint(case.steps // 10, case.steps + 1, (case.batch,))
    lengths[0] = case.steps
    return module, torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)


def call_of(module: torch.nn.Module, x: Any, mode: str) -> Callable[[], Any]:
    def infer() -> Any:
        with torch.no_grad():
            return module(x)

    def train() -> Any:
        module.zero_grad()
        y = module(x)[0]
        y = y.data if isinstance(y, torch.nn.utils.rnn.PackedSequence) else y
        y.sum().backward()
        return y

    return infer if mode == "infer" else train


def milliseconds(call: Callable[[], Any]) -> list[float]:
    for _ in range(WARM_UP):
        call()
    times: list[float] = []
    end = time.perf_counter() + BUDGET
    while len(times) < LEAST or (len(times) < MOST and time.perf_counter() < end):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop))
    return times


def kernel_events(call: Callable[[], Any], repeats: int = 1) -> list[Any]:
    """The profiler's, of what the calls ran on the GPU."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(repeats):
            call()
        torch.cuda.synchronize()
    return [event for event in profile.events() if event.device_type.name == "CUDA"]


def kernels(call: Callable[[], Any]) -> dict[str, int]:
    return dict(Counter(event.name for event in kernel_events(call)).most_common(12))


def output_of(result: Any) -> torch.Tensor:
    y = result[0] if isinstance(result, tuple) else result
    return y.data if isinstance(y, torch.nn.utils.rnn.PackedSequence) else y


def measure(case: gpu_cases.Case, turn: int) -> list[dict[str, Any]]:
    import fastrnn.torch

    for flags in (torch.backends.cuda.matmul, torch.backends.cudnn):
        flags.allow_tf32 = case.dtype == "tf32"
    fastrnn.set_float32_precision("tf32" if case.dtype == "tf32" else "strict")
    theirs, x = problem(case)
    ours = problem(case)[0]
    fastrnn.torch.replace(ours)
    expected = output_of(call_of(theirs, x, "infer")()).float()
    records = []
    for mode in gpu_cases.MODES:
        libraries = [("torch", theirs), ("fastrnn", ours)]
        for library, module in libraries if turn % 2 == 0 else libraries[::-1]:
            record: dict[str, Any] = {"case": case.name, "mode": mode, "library": library}
            try:
                call = call_of(module, x, mode)
                y = output_of(call()).float()
                record["difference"] = float((y - expected).abs().max())
                times = milliseconds(call)
                record["ms"] = [round(q, 5) for q in statistics.quantiles(times, n=4)]
                record["calls"] = len(times)
                record["kernels"] = kernels(call)
            except Exception as problem_found:  # one line's failure is a result, not the end
                record["problem"] = f"{type(problem_found).__name__}: {problem_found}"
            records.append(record)
    return records


def table(records: list[dict[str, Any]]) -> str:
    """Markdown: a row for each case and mode."""
    times: dict[tuple[str, str], dict[str, float]] = {}
    for record in records:
        if "ms" in record:
            row = times.setdefault((record["case"], record["mode"]), {})
            row[record["library"]] = record["ms"][1]
    lines = ["| case | mode | torch ms | fastrnn ms | torch / fastrnn |", "|---|---|---|---|---|"]
    for (case, mode), row in times.items():
        theirs, ours = row.get("torch"), row.get("fastrnn")
        ratio = f"{theirs / ours:.2f}" if theirs and ours else "-"
        cells = (f"{t:.3f}" if t else "-" for t in (theirs, ours))
        lines.append(" | ".join([f"| {case}", mode, *cells, f"{ratio} |"]))
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="JSON lines are appended to it")
    parser.add_argument("--seconds", type=float, default=200, help="start no case after these")
    parser.add_argument("--only", default="", help="run the cases with this in their name")
    parser.add_argument("--table", action="store_true", help="print the table of output and end")
    options = parser.parse_args(arguments)
    if not options.table:
        if not torch.cuda.is_available():
            print("gpu_bench.py: torch sees no GPU", file=sys.stderr)
            return 2
        end = time.monotonic() + options.seconds
        chosen = [case for case in gpu_cases.cases() if options.only in case.name]
        for turn, case in enumerate(chosen):
            if time.monotonic() > end:
                break
            with options.output.open("a") as lines:
                for record in measure(case, turn):
                    lines.write(json.dumps(record) + "\n")
    records = [json.loads(line) for line in options.output.read_text().splitlines()]
    print(table(records))
    return 0


if __name__ == "__main__":
    sys.exit(main())
