"""`fastrnn diagnose`: how far back a character model learns, and how its gates stand.

The loss is that of one character, after `steps` others. Its gradient with respect to h, step by
step backwards, is what back-propagation through time has to learn from (Bengio, Simard & Frasconi,
"Learning long-term dependencies with gradient descent is difficult", IEEE TNN 5(2), 1994): it
vanishes where it shrinks with every step, and explodes where it grows.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import functional
from .language_model import Settings, Trainer
from .language_model.corpus import Corpus, Indices
from .language_model.model import CharacterModel

Array = npt.NDArray[Any]

GATES = {"lstm": "ifgo", "gru": "rzn", "rnn": "h"}
HORIZON = 0.01
ROWS = 32


class Report(NamedTuple):
    """One level of one model.

    norms       (steps,): the mean norm of dL/dh, by distance from the loss: norms[0] at the last
                step
    horizon     the first distance at which it is less than HORIZON of norms[0]; None: none is
    saturated   share of each gate's values in the outer tenth of its range on either side
    """

    name: str
    norms: Array
    horizon: int | None
    saturated: dict[str, float]


def fresh_models(corpus: Corpus, settings: dict[str, Any]) -> dict[str, CharacterModel]:
    """An RNN, a GRU and an LSTM of the same sizes, trained on the same text for `steps` updates."""
    models = {}
    for cell in ("rnn", "gru", "lstm"):
        steps = settings.get("steps", 0)
        trainer = Trainer(corpus, Settings(**settings | {"cell": cell, "steps": max(steps, 1)}))
        for _ in range(steps):
            trainer.advance()
        models[cell] = trainer.model
    return models


def diagnose(name: str, model: CharacterModel, text: Indices, steps: int) -> list[Report]:
    """A report for every level of the model, the last one first.

    text: indices into the model's vocabulary, more than `steps` of them. ValueError if fewer.
    """
    if len(text) <= steps:
        raise ValueError(f"the text has {len(text)} characters, {steps + 1} are needed")
    starts = np.linspace(0, len(text) - steps - 1, ROWS).astype(int)
    windows = text[starts[:, None] + np.arange(steps + 1)]  # (B, steps + 1)
    parameters = model.parameters
    family = type(model.rnn).__name__.lower()
    forward = getattr(functional, f"{family}_forward")
    backward = getattr(functional, f"{family}_backward")
    x = parameters["embedding.weight"][windows[:, :-1].T]
    calls = []
    for level in range(model.rnn.num_layers):
        kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        weights = [parameters[f"rnn.{kind}_l{level}"] for kind in kinds]
        x, _, saved, gates = forward(x, *weights, return_gates=True)
        calls.append((saved, gates))

    logits = x[-1] @ parameters["output.weight"].T + parameters["output.bias"]
    dlogits = np.exp(logits - logits.max(axis=1, keepdims=True))
    dlogits /= dlogits.sum(axis=1, keepdims=True)
    dlogits[np.arange(ROWS), windows[:, -1]] -= 1.0
    dy = np.zeros_like(x)
    dy[-1] = dlogits @ parameters["output.weight"]

    reports = []
    for level, (saved, gates) in reversed(list(enumerate(calls))):
        g = backward(saved, dy, return_step_norms=True)
        norms = g.step_norms[::-1].mean(axis=1, dtype=np.float64)
        below = np.flatnonzero(norms < HORIZON * norms[0])
        saturated = {
            gate: _saturated(gates[:, :, n], of_tanh=gate in "gnh")
            for n, gate in enumerate(GATES[family])
        }
        label = name if len(calls) == 1 else f"{name}, level {level + 1}"
        reports.append(Report(label, norms, int(below[0]) if len(below) else None, saturated))
        dy = g.dx
    return reports


def _saturated(values: Array, of_tanh: bool) -> float:
    low, high = (-0.8, 0.8) if of_tanh else (0.1, 0.9)
    return float(np.mean((values < low) | (values > high)))


def distances(steps: int) -> list[int]:
    """0, 1, 2, 5, 10, 20, 50 .. below `steps`."""
    marks = [m * 10**e for e in range(6) for m in (1, 2, 5)]
    return [0, *(d for d in marks if d < steps)]


def table(reports: list[Report]) -> str:
    steps = len(reports[0].norms)
    marks = distances(steps)
    width = max(16, *(len(report.name) + 2 for report in reports))
    head = f"{'distance':{width}}" + "".join(f"{d:>9}" for d in marks)
    lines = [head + f"{'horizon':>9}"]
    for name, norms, horizon, _ in reports:
        figures = "".join(f"{norms[d] / norms[0]:>9.1e}" for d in marks)
        reach = f">{steps - 1}" if horizon is None else str(horizon)
        lines.append(f"{name:{width}}{figures}{reach:>9}")
    lines.append("")
    lines.append("share of saturated values of each gate")
    for report in reports:
        shares = "".join(f"{gate:>5} {share:4.0%}" for gate, share in report.saturated.items())
        lines.append(f"{report.name:{width}}{shares}")
    return "\n".join(lines)


def plot(reports: list[Report], path: Path) -> None:
    """The gradient's norm against the distance; the format is that of the path's suffix. Needs
    matplotlib. Raises ImportError, OSError, ValueError.
    """
    matplotlib: Any = import_module("matplotlib.figure")
    figure = matplotlib.Figure(figsize=(6.4, 4.0), layout="constrained")
    panel = figure.subplots()
    for name, norms, _, _ in reports:
        panel.semilogy(np.maximum(norms / norms[0], 1e-12), label=name)
    panel.axhline(HORIZON, color="grey", linewidth=0.8)
    panel.set_xlabel("steps back from the loss")
    panel.set_ylabel("norm of dL/dh, relative to the last step's")
    panel.grid(alpha=0.3)
    panel.legend()
    figure.savefig(path, dpi=150)
