"""Whom we time: ourselves, then each installed peer, on the same weights and inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import util
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from .. import get_num_threads, modules
from ..info import installed as version_of
from .cases import Case

Array = npt.NDArray[np.float32]


class Problem(NamedTuple):
    """One line of the table: a layer's parameters, its input x (T, B, I) and dy (T, B, H)."""

    cell: str
    case: Case
    parameters: dict[str, Array]
    x: Array
    dy: Array


class Runs(NamedTuple):
    """The two timed calls. infer() gives y; train() gives y, dx and the parameters' gradients."""

    infer: Callable[[], Any]
    train: Callable[[], Any]
    to_numpy: Callable[[Any], list[Array]]  # of what either returns


class Peer(Protocol):
    name: str
    version: str

    def prepare(self, problem: Problem) -> Runs: ...


class FastRNN:
    name = "fastrnn"
    version = version_of("fastrnn") or "from its source"

    def prepare(self, problem: Problem) -> Runs:
        layer = _layer(problem.cell, problem.case)
        layer.load_state_dict(problem.parameters)

        def infer() -> Any:
            return (layer.forward(problem.x)[0],)

        def train() -> Any:
            y, _ = layer.forward(problem.x, training=True)
            gradients = layer.backward(problem.dy)
            return (y, gradients.dx, *gradients.parameters.values())

        return Runs(infer, train, list)


class Torch:
    name = "torch"

    def __init__(self) -> None:
        import torch

        self._torch = torch
        self.version = str(torch.__version__)
        torch.set_num_threads(get_num_threads())

    def prepare(self, problem: Problem) -> Runs:
        torch = self._torch
        case = problem.case
        module = getattr(torch.nn, problem.cell.upper())(
            case.input_size, case.hidden_size, case.layers
        )
        module.load_state_dict({k: torch.tensor(v) for k, v in problem.parameters.items()})
        x, dy = torch.tensor(problem.x), torch.tensor(problem.dy)
        leaf = x.clone().requires_grad_()
        leaves = (leaf, *module.parameters())

        def infer() -> Any:
            with torch.inference_mode():
                return (module(x)[0],)

        def train() -> Any:
            for tensor in leaves:
                tensor.grad = None
            y, _ = module(leaf)
            y.backward(dy)
            return (y, *(tensor.grad for tensor in leaves))

        return Runs(infer, train, lambda tensors: [t.detach().numpy() for t in tensors])


def installed() -> list[Peer]:
    """Ourselves and every peer that can be imported."""
    peers: list[Peer] = [FastRNN()]
    if util.find_spec("torch") is not None:
        peers.append(Torch())
    return peers


def problem(cell: str, case: Case) -> Problem:
    generator = np.random.default_rng(0)
    return Problem(
        cell,
        case,
        _layer(cell, case).state_dict(),
        generator.standard_normal((case.steps, case.batch, case.input_size), np.float32),
        generator.standard_normal((case.steps, case.batch, case.hidden_size), np.float32),
    )


def disagreement(problem: Problem, ours: list[Array], theirs: list[Array]) -> float:
    """The largest difference of two lists of results, in units of what float32 rounding may
    explain.

    The unit is eps * sqrt(longest sum) * the largest element of the array.
    """
    case = problem.case
    terms = max(case.steps * case.batch, case.input_size + case.hidden_size)
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        unit = float(np.finfo(np.float32).eps) * math.sqrt(terms) * float(np.abs(a).max())
        difference = float(np.abs(a - b).max())
        if difference != 0.0:  # NaN is not
            worst = max(worst, difference / unit if unit > 0.0 else math.inf)
    return worst


def _layer(cell: str, case: Case) -> modules.Recurrent[Any]:
    kind: type[modules.Recurrent[Any]] = getattr(modules, cell.upper())
    return kind(case.input_size, case.hidden_size, case.layers, seed=0)
