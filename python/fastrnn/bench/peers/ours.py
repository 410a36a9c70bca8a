"""fastrnn itself, through its layers."""

from __future__ import annotations

from typing import Any

from ...info import installed
from ..problem import Problem, Run, make_layer


class FastRNN:
    name = "fastrnn"

    def __init__(self, threads: int) -> None:
        self.version = installed("fastrnn") or "from its source"

    def prepare(self, problem: Problem, mode: str) -> Run:
        layer = make_layer(problem.cell, problem.case)
        layer.load_state_dict(problem.parameters)

        def step() -> Any:
            return (layer.step(x, state)[0],)

        def infer() -> Any:
            return (layer.forward(problem.x, lengths=problem.lengths)[0],)

        def train() -> Any:
            y, _ = layer.forward(problem.x, lengths=problem.lengths, training=True)
            gradients = layer.backward(problem.dy)
            return (y, gradients.dx, *gradients.parameters.values())

        if problem.case.step:
            x = problem.x[0]
            state = problem.state if problem.cell == "lstm" else problem.state[0]
            return Run(step, list)
        return Run(train if mode == "train" else infer, list)
