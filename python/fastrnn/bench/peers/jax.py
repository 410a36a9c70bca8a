"""JAX: one product with the input for all steps, then lax.scan, compiled by jit; gradients by vjp
inside the compiled function.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

import numpy as np

from ..problem import Array, Problem, Run


class Jax:
    name = "jax"

    def __init__(self, threads: int) -> None:
        # read once, when the first array is made
        os.environ.setdefault("PJRT_NPROC", str(threads))
        if threads == 1:
            flags = os.environ.get("XLA_FLAGS", "")
            os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
        self._jax: Any = import_module("jax")
        self.version = str(self._jax.__version__)
        self._jax.config.update("jax_platforms", "cpu")
        self._jax.config.update("jax_enable_x64", True)  # dtypes here are all explicit
        self._jax.config.update("jax_cpu_enable_async_dispatch", False)

    def prepare(self, problem: Problem, mode: str) -> Run:
        jax, case = self._jax, problem.case
        jnp = jax.numpy
        # kernels as JAX's own libraries keep them: (inputs, gates)
        parameters = {
            name: jnp.asarray(np.ascontiguousarray(value.T))
            for name, value in problem.parameters.items()
        }
        x, dy = jnp.asarray(problem.x), jnp.asarray(problem.dy)
        state = [jnp.asarray(part) for part in problem.state]
        lengths = problem.lengths
        valid = None
        if lengths is not None:
            valid = jnp.asarray(np.arange(case.steps)[:, None, None] < lengths[None, :, None])

        def forward(parameters: Any, x: Any, state: Any) -> Any:
            y = x
            for layer in range(case.layers):
                outputs = []
                for end in ("", "_reverse")[: case.directions]:
                    weights = [
                        parameters[f"{kind}_l{layer}{end}"]
                        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
                    ]
                    shape = case.batch, case.hidden_size
                    zeros = jnp.zeros(shape, y.dtype)
                    first = [part[layer] for part in state] or [zeros] * (
                        2 if problem.cell == "lstm" else 1
                    )
                    outputs.append(self._scan(problem.cell, y, weights, first, valid, end != ""))
                y = outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, -1)
            return y

        def train(parameters: Any, x: Any, dy: Any) -> Any:
            y, back = jax.vjp(lambda p, x: forward(p, x, []), parameters, x)
            gradients, dx = back(dy)
            # jit hands dicts over sorted by their keys
            return (y, dx, *(gradients[name] for name in problem.parameters))

        def to_numpy(results: Any) -> list[Array]:
            # gradients of kernels, transposed as the kernels are
            head = [np.asarray(array) for array in results[:2]]
            return head + [np.asarray(array).T for array in results[2:]]

        if mode == "train":
            compiled = jax.jit(train).lower(parameters, x, dy).compile()
            return Run(lambda: jax.block_until_ready(compiled(parameters, x, dy)), to_numpy)

        def infer(parameters: Any, x: Any, state: Any) -> Any:
            y = forward(parameters, x, state)
            return (y[0],) if case.step else (y,)

        jitted = jax.jit(infer)  # its dispatch is faster than that of a compiled object
        return Run(lambda: jax.block_until_ready(jitted(parameters, x, state)), to_numpy)

    def _scan(self, cell: str, x: Any, weights: Any, first: Any, valid: Any, reverse: bool) -> Any:
        jax = self._jax
        jnp, sigmoid = jax.numpy, jax.nn.sigmoid
        w_ih, w_hh, b_ih, b_hh = weights

        def advance(gx: Any, state: Any) -> Any:
            h = state[0]
            if cell == "rnn":
                return [jnp.tanh(gx + h @ w_hh)]
            if cell == "lstm":
                i, f, g, o = jnp.split(gx + h @ w_hh, 4, -1)
                c = sigmoid(f) * state[1] + sigmoid(i) * jnp.tanh(g)
                return [sigmoid(o) * jnp.tanh(c), c]
            r, z, n = jnp.split(gx, 3, -1)
            hr, hz, hn = jnp.split(h @ w_hh + b_hh, 3, -1)
            z = sigmoid(z + hz)
            n = jnp.tanh(n + sigmoid(r + hr) * hn)
            return [n + z * (h - n)]

        def step(state: Any, now: Any) -> Any:
            gx, keep = now
            after = advance(gx, state)
            if keep is None:
                return after, after[0]
            carried = [jnp.where(keep, a, b) for a, b in zip(after, state, strict=True)]
            return carried, jnp.where(keep, after[0], 0)

        gx = x @ w_ih + (b_ih if cell == "gru" else b_ih + b_hh)
        return jax.lax.scan(step, first, (gx, valid), reverse=reverse)[1]
