"""Models that torch's exporters make of its LSTM, GRU and RNN."""

from __future__ import annotations

import io
import itertools
import random
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="exports models")
pytest.importorskip("onnx", reason="runs models")

import torch
from tolerances import assert_close

import fastrnn.onnx

CELLS: dict[str, Any] = {
    "lstm": lambda *a, **k: torch.nn.LSTM(*a, **k),
    "gru": lambda *a, **k: torch.nn.GRU(*a, **k),
    "tanh": lambda *a, **k: torch.nn.RNN(*a, nonlinearity="tanh", **k),
    "relu": lambda *a, **k: torch.nn.RNN(*a, nonlinearity="relu", **k),
}
T, B, I, H = 7, 4, 5, 6


@dataclass(frozen=True)
class Export:
    cell: str
    layers: int
    bidirectional: bool
    states: bool
    packed: bool
    dropout: bool


ALL = [Export(*e) for e in itertools.product(CELLS, (1, 2, 3), *[(False, True)] * 4)]


class Packed(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Padded in, padded out."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Any, lengths: Any, *state: Any) -> Any:
        pack, pad = torch.nn.utils.rnn.pack_padded_sequence, torch.nn.utils.rnn.pad_packed_sequence
        batch_first = self.layer.batch_first
        packed = pack(x, lengths, batch_first=batch_first, enforce_sorted=False)
        y, state = self.layer(packed, *([state if len(state) == 2 else state[0]] if state else []))
        return pad(y, batch_first=batch_first, total_length=T)[0], state


def exported(case: Export) -> tuple[bytes, dict[str, Any], list[Any]]:
    """The model, its feeds, and torch's results."""
    torch.manual_seed(ALL.index(case))
    batch_first = ALL.index(case) % 2 == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dropout with one layer, the exporter's age
        layer = CELLS[case.cell](
            *(I, H, case.layers),
            batch_first=batch_first,
            bidirectional=case.bidirectional,
            dropout=0.5 * case.dropout,
        ).eval()
        arguments = [torch.randn(B, T, I) if batch_first else torch.randn(T, B, I)]
        names, module = ["x"], layer
        if case.packed:
            module = Packed(layer)
            arguments.append(torch.tensor([3, T, 1, 5]))
            names.append("lengths")
        if case.states:
            shape = case.layers * (1 + case.bidirectional), B, H
            states = tuple(torch.randn(shape) for _ in range(1 + (case.cell == "lstm")))
            arguments += states if case.packed or len(states) == 1 else [states]
            names += ["h0", "c0"][: len(states)]
        with torch.no_grad():
            y, state = module(*arguments)
        file = io.BytesIO()
        axes = {"x": {0: "B", 1: "T"} if batch_first else {0: "T", 1: "B"}}
        torch.onnx.export(
            module,
            tuple(arguments),
            file,
            dynamo=False,
            input_names=names,
            dynamic_axes=axes,
            opset_version=(11, 14, 17, 20)[ALL.index(case) % 4],
        )
    flat = [a for given in arguments for a in (given if isinstance(given, tuple) else (given,))]
    feeds = {name: a.numpy() for name, a in zip(names, flat, strict=True)}
    finals = state if isinstance(state, tuple) else (state,)
    return file.getvalue(), feeds, [y.numpy(), *(s.numpy() for s in finals)]


def by_layer(model: bytes, feeds: dict[str, Any]) -> dict[str, Any]:
    """The same by the layer that the model becomes."""
    (layer,) = fastrnn.onnx.load(model)
    state = [feeds[name] for name in ("h0", "c0") if name in feeds]
    turned = feeds["x"].shape[0] == B  # the model transposes for its nodes, which have layout 0
    y, final = layer.forward(
        feeds["x"].swapaxes(0, 1) if turned else feeds["x"],
        tuple(state) if len(state) == 2 else state[0] if state else None,
        feeds.get("lengths"),
    )
    finals = final if isinstance(final, tuple) else (final,)
    return {"y": y.swapaxes(0, 1) if turned else y, **dict(enumerate(finals))}


def check(case: Export) -> None:
    model, feeds, expected = exported(case)
    found = fastrnn.onnx.run(model, feeds)
    for mine, ours in zip(by_layer(model, feeds).values(), found.values(), strict=True):
        assert_close(mine, ours, "float32", "forward", T, name=f"the layer of {case}")
    for name, mine, theirs in zip(("y", "h_n", "c_n"), found.values(), expected, strict=False):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5, err_msg=f"{name} of {case}")
        assert_close(mine, theirs, "float32", "forward", T, name=f"{name} of {case}")


def test_a_third_of_the_models_run_to_torch_s_results() -> None:
    for case in random.Random(0).sample(ALL, len(ALL) // 3):
        check(case)


@pytest.mark.exhaustive
def test_every_model_runs_to_torch_s_results() -> None:
    assert len(ALL) == 192
    for case in ALL:
        check(case)
