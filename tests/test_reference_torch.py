"""The reference against torch.nn in float64: stacked, bidirectional, padded; all gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from shapes import as_states, functions
from tolerances import assert_close

from fastrnn import reference

torch = pytest.importorskip("torch", reason="compares with torch.nn")

LAYERS, DIRECTIONS = 2, 2
T, B, I, H = 9, 5, 4, 7
PEERS = {
    "rnn_tanh": (lambda *a, **k: torch.nn.RNN(*a, nonlinearity="tanh", **k)),
    "rnn_relu": (lambda *a, **k: torch.nn.RNN(*a, nonlinearity="relu", **k)),
    "lstm": lambda *a, **k: torch.nn.LSTM(*a, **k),
    "gru": lambda *a, **k: torch.nn.GRU(*a, **k),
}


def stack_forward(
    cell: str, weights: list[list[Any]], x: Any, states: list[Any], **options: Any
) -> tuple[Any, list[Any], list[Any]]:
    """Layers x directions of reference calls; weights and states in torch's order."""
    forward = functions(reference, cell).forward
    finals, saveds = [], []
    for layer in range(LAYERS):
        outputs = []
        for k in (2 * layer, 2 * layer + 1):
            initial = dict(zip(("h0", "c0"), (s[k] for s in states), strict=False))
            y, final, saved = forward(x, *weights[k], **initial, reverse=k % 2 == 1, **options)
            outputs.append(y)
            finals.append(as_states(final))
            saveds.append(saved)
        x = np.concatenate(outputs, axis=-1)
    return x, [np.stack(s) for s in zip(*finals, strict=True)], saveds


def stack_backward(
    cell: str, saveds: list[Any], dy: Any, dfinals: list[Any]
) -> tuple[Any, list[list[Any]], list[Any]]:
    """From the gradients of the results of `stack_forward` to those of its arguments."""
    backward = functions(reference, cell).backward
    gradients: list[Any] = [None] * len(saveds)
    for layer in reversed(range(LAYERS)):
        forwards, backwards = np.split(dy, DIRECTIONS, axis=-1)
        for k, part in ((2 * layer, forwards), (2 * layer + 1, backwards)):
            gradients[k] = backward(saveds[k], part, *(d[k] for d in dfinals))
        dy = gradients[2 * layer].dx + gradients[2 * layer + 1].dx
    weights = [[g.dw_ih, g.dw_hh, g.db_ih, g.db_hh] for g in gradients]
    initials = [np.stack(d) for d in zip(*(g[5:] for g in gradients), strict=True)]
    return dy, weights, initials


@pytest.mark.parametrize("lengths", [None, [3, 9, 1, 9, 6]], ids=["whole", "packed"])
@pytest.mark.parametrize("batch_first", [False, True], ids=["time_first", "batch_first"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("cell", PEERS)
def test_two_layers_in_both_directions_match_torch(
    cell: str, bias: bool, batch_first: bool, lengths: list[int] | None
) -> None:
    torch.manual_seed(0)
    options = {"bias": bias, "batch_first": batch_first, "bidirectional": True}
    peer = PEERS[cell](I, H, LAYERS, dtype=torch.float64, **options)
    draw = np.random.default_rng(0)
    n_states = 2 if cell == "lstm" else 1
    x = draw.standard_normal((B, T, I) if batch_first else (T, B, I))
    dy = draw.standard_normal((*x.shape[:2], DIRECTIONS * H))
    states, dfinals = draw.standard_normal((2, n_states, LAYERS * DIRECTIONS, B, H))

    tx = torch.tensor(x, requires_grad=True)
    ts = torch.tensor(states, requires_grad=True)
    packed = tx
    if lengths:
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            tx, torch.tensor(lengths), batch_first, enforce_sorted=False
        )
    ty, tfinals = peer(packed, tuple(ts) if n_states == 2 else ts[0])
    if lengths:
        ty, _ = torch.nn.utils.rnn.pad_packed_sequence(ty, batch_first)
    tfinals = as_states(tfinals)
    total = (ty * torch.tensor(dy)).sum()
    for final, d in zip(tfinals, torch.tensor(dfinals), strict=True):
        total = total + (final * d).sum()
    total.backward()

    weights = [[p.detach().numpy() for p in layer] for layer in peer.all_weights]
    y, finals, saveds = stack_forward(
        cell, weights, x, list(states), batch_first=batch_first, lengths=lengths
    )
    dx, dweights, dinitials = stack_backward(cell, saveds, dy, list(dfinals))

    def check(kind: str, name: str, ours: Any, theirs: Any) -> None:
        assert_close(ours, theirs.detach().numpy(), "float64", kind, T, name=name)

    check("forward", "y", y, ty)
    for name, ours, theirs in zip(("h_n", "c_n"), finals, tfinals, strict=False):
        check("forward", name, ours, theirs)
    check("gradient", "dx", dx, tx.grad)
    check("gradient", "dh0, dc0", np.stack(dinitials), ts.grad)
    for ours_of_layer, layer in zip(dweights, peer.all_weights, strict=True):
        assert [w is None for w in ours_of_layer] == [False, False, not bias, not bias]
        for ours, theirs in zip(ours_of_layer, layer, strict=False):
            check("gradient", "dw, db", ours, theirs.grad)


@pytest.mark.parametrize("cell", PEERS)
def test_step_matches_torch_cell(cell: str) -> None:
    torch.manual_seed(0)
    family, _, variant = cell.partition("_")
    options = {"nonlinearity": variant} if family == "rnn" else {}
    peer = getattr(torch.nn, f"{family.upper()}Cell")(I, H, dtype=torch.float64, **options)
    draw = np.random.default_rng(0)
    x = draw.standard_normal((B, I))
    state = tuple(draw.standard_normal((2 if cell == "lstm" else 1, B, H)))
    weights = [p.detach().numpy() for p in peer.parameters()]
    with torch.no_grad():
        ts = tuple(map(torch.tensor, state))
        theirs = as_states(peer(torch.tensor(x), ts if cell == "lstm" else ts[0]))
    ours = functions(reference, cell).step(x, state if cell == "lstm" else state[0], *weights)
    for name, a, b in zip(("h", "c"), as_states(ours), theirs, strict=False):
        assert_close(a, b.numpy(), "float64", "forward", name=name)
