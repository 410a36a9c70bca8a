"""fastrnn.torch beside torch.nn and beside the NumPy layers that it stands on: milliseconds a call.

    taskset -c 1 python benchmarks/torch_modules.py [--cells lstm gru rnn] [--modes infer train]
                                                    [--cases shapes] [--seconds 1]

One thread. Results are compared before they are timed. `over` is what the module takes beyond the
NumPy layer, of the same weights and arrays; `ratio` is torch.nn's time by the module's. The last
line of a mode is the geometric mean of the ratios and the least of them.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

import fastrnn
from fastrnn.bench.cases import CELLS, MODES, choose
from fastrnn.bench.peers.ours import FastRNN
from fastrnn.bench.peers.torch import Torch
from fastrnn.bench.problem import LARGEST_DISAGREEMENT, disagreement, make_problem
from fastrnn.bench.timing import interleaved


class Modules(Torch):
    """The same calls on our modules."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        import fastrnn.torch

        self.modules = fastrnn.torch


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", nargs="+", default=list(CELLS), choices=CELLS)
    parser.add_argument("--modes", nargs="+", default=MODES, choices=MODES)
    parser.add_argument("--cases", nargs="+", default=["shapes"])
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    fastrnn.set_num_threads(1)
    contestants = {"torch.nn": Torch(1), "fastrnn.torch": Modules(1), "NumPy": FastRNN(1)}
    differs = False
    for cell in options.cells:
        for mode in options.modes:
            print(f"{cell} {mode}: B,T,I,H,L  torch.nn  fastrnn.torch  NumPy ms  over  ratio")
            ratios = []
            for case in choose(options.cases):
                problem = make_problem(cell, case)
                runs = {name: peer.prepare(problem, mode) for name, peer in contestants.items()}
                theirs, ours, _ = (run.to_numpy(run.call()) for run in runs.values())
                apart = disagreement(case, ours, theirs)
                if apart > LARGEST_DISAGREEMENT:
                    differs = True
                    print(f"{case.name}: results differ, by {apart:.3g} units of rounding")
                    continue
                times = interleaved({n: run.call for n, run in runs.items()}, options.seconds)
                theirs, ours, core = (1e3 * times[name].median for name in contestants)
                ratios.append(theirs / ours)
                figures = f"{theirs:9.4f} {ours:9.4f} {core:9.4f} {100 * (ours / core - 1):5.1f}%"
                print(f"{case.name:20} {figures} {ratios[-1]:6.2f}", flush=True)
            mean = float(np.exp(np.mean(np.log(ratios))))
            print(f"geometric mean {mean:.2f}, least {min(ratios):.2f}")
    return int(differs)


if __name__ == "__main__":
    sys.exit(main())
