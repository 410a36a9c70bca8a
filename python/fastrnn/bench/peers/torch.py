"""PyTorch: nn.LSTM, GRU, RNN under inference_mode or with autograd; packed sequences for lengths;
the cell modules for one step.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from ..problem import Array, Problem, Run


class Torch:
    name = "torch"

    def __init__(self, threads: int) -> None:
        self._torch: Any = import_module("torch")
        self.version = str(self._torch.__version__)
        self._torch.set_num_threads(threads)
        self.modules = self._torch.nn  # or a drop-in's

    def prepare(self, problem: Problem, mode: str) -> Run:
        if problem.case.step:
            return self._step(problem)
        torch, case = self._torch, problem.case
        module = getattr(self.modules, problem.cell.upper())(
            case.input_size,
            case.hidden_size,
            case.layers,
            bidirectional=case.bidirectional,
            dtype=getattr(torch, case.dtype),
        )
        module.load_state_dict({k: torch.tensor(v) for k, v in problem.parameters.items()})
        x, dy = torch.tensor(problem.x), torch.tensor(problem.dy)
        leaf = x.clone().requires_grad_()
        leaves = (leaf, *module.parameters())
        lengths = None if problem.lengths is None else torch.tensor(problem.lengths)
        utilities = torch.nn.utils.rnn

        def forward(x: Any) -> Any:
            if lengths is None:
                return module(x)[0]
            packed = utilities.pack_padded_sequence(x, lengths, enforce_sorted=False)
            return utilities.pad_packed_sequence(module(packed)[0], total_length=case.steps)[0]

        def infer() -> Any:
            with torch.inference_mode():
                return (forward(x),)

        def train() -> Any:
            for tensor in leaves:
                tensor.grad = None
            y = forward(leaf)
            y.backward(dy)
            return (y, *(tensor.grad for tensor in leaves))

        return Run(train if mode == "train" else infer, _to_numpy)

    def _step(self, problem: Problem) -> Run:
        torch, case = self._torch, problem.case
        kind = getattr(self.modules, f"{problem.cell.upper()}Cell")
        cells = []
        for layer in range(case.layers):
            cell = kind(
                case.hidden_size if layer else case.input_size,
                case.hidden_size,
                dtype=getattr(torch, case.dtype),
            )
            end = f"_l{layer}"
            cell.load_state_dict(
                {
                    name.removesuffix(end): torch.tensor(value)
                    for name, value in problem.parameters.items()
                    if name.endswith(end)
                }
            )
            cells.append(cell)
        x = torch.tensor(problem.x[0])
        states = [
            torch.tensor(np.stack([part[layer] for part in problem.state]))
            for layer in range(case.layers)
        ]
        states = [tuple(s) if problem.cell == "lstm" else s[0] for s in states]

        def step() -> Any:
            with torch.inference_mode():
                y = x
                for cell, state in zip(cells, states, strict=True):
                    after = cell(y, state)
                    y = after[0] if isinstance(after, tuple) else after
                return (y,)

        return Run(step, _to_numpy)


def _to_numpy(tensors: Any) -> list[Array]:
    return [tensor.detach().numpy() for tensor in tensors]
