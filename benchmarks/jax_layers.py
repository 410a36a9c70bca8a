"""fastrnn.jax beside lax.scan, both under jit, one thread: milliseconds a call and the ratio.

    taskset -c 1 python benchmarks/jax_layers.py [--cells lstm gru rnn] [--modes infer train]
                                                 [--cases shapes] [--seconds 1]

The scan is that of the JAX contestant of `fastrnn bench`: one input product, then the steps.
Results are compared before they are timed. The last line of a mode is the geometric mean of the
ratios and the least of them.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np

import fastrnn
from fastrnn.bench.cases import CELLS, MODES, choose
from fastrnn.bench.peers.jax import Jax
from fastrnn.bench.problem import LARGEST_DISAGREEMENT, Problem, Run, disagreement, make_problem
from fastrnn.bench.timing import interleaved


class Ours:
    def __init__(self) -> None:
        import jax

        import fastrnn.jax

        self._jax, self._functions = jax, fastrnn.jax

    def prepare(self, problem: Problem, mode: str) -> Run:
        jax, function = self._jax, getattr(self._functions, problem.cell)
        parameters, x, dy = jax.tree.map(
            jax.numpy.asarray, (problem.parameters, problem.x, problem.dy)
        )

        def train(parameters: Any, x: Any, dy: Any) -> Any:
            y, back = jax.vjp(lambda p, x: function(p, x)[0], parameters, x)
            gradients, dx = back(dy)
            return (y, dx, *(gradients[name] for name in problem.parameters))

        def infer(parameters: Any, x: Any) -> Any:
            return (function(parameters, x)[0],)

        compiled = jax.jit(train if mode == "train" else infer)
        arguments = (parameters, x, dy) if mode == "train" else (parameters, x)
        return Run(
            lambda: jax.block_until_ready(compiled(*arguments)),
            lambda results: [np.asarray(array) for array in results],
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", nargs="+", default=["lstm", "gru"], choices=CELLS)
    parser.add_argument("--modes", nargs="+", default=MODES, choices=MODES)
    parser.add_argument("--cases", nargs="+", default=["shapes"])
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    fastrnn.set_num_threads(1)
    contestants = {"scan": Jax(1), "fastrnn": Ours()}
    differs = False
    for cell in options.cells:
        for mode in options.modes:
            print(f"{cell} {mode}: B,T,I,H,L  scan ms  fastrnn ms  ratio")
            ratios = []
            for case in choose(options.cases):
                problem = make_problem(cell, case)
                runs = {name: peer.prepare(problem, mode) for name, peer in contestants.items()}
                theirs, ours = (run.to_numpy(run.call()) for run in runs.values())
                apart = disagreement(case, ours, theirs)
                if apart > LARGEST_DISAGREEMENT:
                    differs = True
                    print(f"{case.name}: results differ, by {apart:.3g} units of rounding")
                    continue
                times = interleaved({n: run.call for n, run in runs.items()}, options.seconds)
                scan, fast = (1e3 * times[name].median for name in contestants)
                ratios.append(scan / fast)
                print(f"{case.name:20} {scan:9.4f} {fast:9.4f} {ratios[-1]:6.2f}", flush=True)
            mean = float(np.exp(np.mean(np.log(ratios))))
            print(f"geometric mean {mean:.2f}, least {min(ratios):.2f}")
    return int(differs)


if __name__ == "__main__":
    sys.exit(main())
