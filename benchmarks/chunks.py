"""Back-propagation through time of a long sequence by what is kept for it: memory and time.

    taskset -c 1 python benchmarks/chunks.py [--sizes 100000,8,256] [--mode True chunks recompute]

An LSTM, T steps, B rows, H = I units, float32, one thread; each mode in a process of its own, on
Linux. `held` is by how much the process grows in forward, beside y; `peak` the most that it had in
memory, beyond what Python and the weights take, by x, y, dx and dy together. Times are those of the
second of two calls.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import fastrnn

MODES = ("True", "chunks", "recompute")


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def most_resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(mode: str, T: int, B: int, H: int) -> str:
    fastrnn.set_num_threads(1)
    rng = np.random.default_rng(0)
    weights = [
        rng.uniform(-1, 1, shape).astype(np.float32) / np.float32(np.sqrt(H))
        for shape in ((4 * H, H), (4 * H, H), (4 * H,), (4 * H,))
    ]
    small = np.zeros((2, B, H), np.float32)
    save = True if mode == "True" else mode
    *_, saved = fastrnn.lstm_forward(small, *weights, save=save)
    fastrnn.lstm_backward(saved, small)
    without = resident()

    x = rng.standard_normal((T, B, H), np.float32)
    dy = rng.standard_normal((T, B, H), np.float32)
    held, peak, forward, backward = 0.0, 0.0, 0.0, 0.0
    for call in range(2):
        before = resident()
        start = time.perf_counter()
        y, _, saved = fastrnn.lstm_forward(x, *weights, save=save)
        forward = time.perf_counter() - start
        if call == 0:
            held = (resident() - before - y.nbytes) / 2**20
        start = time.perf_counter()
        g = fastrnn.lstm_backward(saved, dy)
        backward = time.perf_counter() - start
        if call == 0:
            peak = (most_resident() - without) / sum(a.nbytes for a in (x, y, dy, g.dx))
        del y, saved, g
    return f"{held:10.1f} {peak:7.2f} {forward:9.2f} {backward:9.2f} {forward + backward:9.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="100000,8,256")
    parser.add_argument("--mode", nargs="+", default=MODES, choices=MODES)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = tuple(map(int, options.sizes.split(",")))
    if options.here:
        print(measure(options.mode[0], *sizes))
        return 0
    print(f"T,B,H {options.sizes}: save  held MiB  peak  forward s  backward s  together s")
    for mode in options.mode:
        command = [sys.executable, __file__, "--here", "--sizes", options.sizes, "--mode", mode]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        print(f"{mode:10} {done.stdout.rstrip()}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
