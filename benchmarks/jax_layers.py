"""fastrnn.jax beside lax.scan, both under jit, one thread: milliseconds a call and the ratio.

    taskset -c 1 python benchmarks/jax_layers.py [--cell lstm gru rnn] [--mode infer train]
                                                 [--case shapes] [--seconds 1]

The scan is that of the JAX contestant of `fastrnn bench`: one input product, then the steps.
Results are compared before they are timed.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

import fastrnn
from fastrnn.bench.compared import versus
from fastrnn.bench.peers.jax import Jax
from fastrnn.bench.problem import Problem, Run


class Ours:
    name, version = "fastrnn.jax", ""

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


if __name__ == "__main__":
    fastrnn.set_num_threads(1)
    sys.exit(versus(__doc__.splitlines()[0], lambda: [Jax(1), Ours()], ("lstm", "gru")))
