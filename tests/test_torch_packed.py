"""A PackedSequence on the CPU: its rows are read where they lie, and the results are packed too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_torch_modules import CLASSES
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import fastrnn.torch

T, B, I, H = 7, 5, 4, 9
LENGTHS = torch.tensor([3, 7, 1, 3, 6])
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    *((name, {"num_layers": 2, "bidirectional": True}) for name in CLASSES),
    ("LSTM", {"proj_size": 3, "bidirectional": True}),
    ("LSTM", {"peephole": True, "layer_norm": "state"}),
    ("GRU", {"reset_after": False, "zoneout": 0.2}),
    ("GRU", {"recompute": True}),
]


def make(name: str, options: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    return getattr(fastrnn.torch, name)(I, H, **options)


def gradients(module: Any, y: torch.Tensor, x: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(y.square().sum(), [x, *module.parameters()]))


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=str)
def test_a_packed_sequence_gives_the_bits_that_lengths_give(
    name: str, options: dict[str, Any]
) -> None:
    module = make(name, options).eval()
    x = torch.randn(T, B, I, requires_grad=True)
    packed = pack_padded_sequence(x, LENGTHS, enforce_sorted=False)
    y, final = module(packed)
    expected, expected_final = module(x, lengths=LENGTHS)
    padded, lengths = pad_packed_sequence(y, total_length=T)
    assert torch.equal(lengths, LENGTHS)
    assert torch.equal(padded, expected)
    for got, state in zip(final, expected_final, strict=True):
        assert torch.equal(got, state)
    for got, gradient in zip(
        gradients(module, padded, x), gradients(module, expected, x), strict=True
    ):
        torch.testing.assert_close(got, gradient)
    with torch.no_grad():
        assert torch.equal(module(packed)[0].data, y.data)


def test_nothing_that_is_kept_has_room_for_steps_that_no_row_takes() -> None:
    module, kept = make("LSTM", {}), []
    x = torch.randn(500, B, I)
    lengths = torch.tensor([500, 3, 2, 2, 1])
    packed = pack_padded_sequence(x, lengths)

    def pack(t: torch.Tensor) -> torch.Tensor:
        kept.append(t.numel())
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        module(packed)
    assert max(kept) == int(lengths.sum()) * 4 * H


@pytest.mark.parametrize("name", CLASSES)
def test_second_derivatives_of_a_packed_sequence_are_those_of_the_padded_one(name: str) -> None:
    module = make(name, {}).double()
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)

    def penalty(y: torch.Tensor) -> torch.Tensor:
        (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return dx.square().sum()

    y, _ = module(pack_padded_sequence(x, LENGTHS, enforce_sorted=False))
    got = torch.autograd.grad(penalty(pad_packed_sequence(y)[0]), list(module.parameters()))
    y, _ = module(x, lengths=LENGTHS)
    for a, b in zip(got, torch.autograd.grad(penalty(y), list(module.parameters())), strict=True):
        torch.testing.assert_close(a, b)


def test_batch_sizes_may_change_between_forward_and_backward() -> None:
    module = make("GRU", {})
    x = torch.randn(T, B, I)
    expected, got = [], []
    for found in (expected, got):
        packed = pack_padded_sequence(x, LENGTHS, enforce_sorted=False)
        loss = module(packed)[0].data.sum()
        if found is got:
            packed.batch_sizes.fill_(10**6)
        found += torch.autograd.grad(loss, list(module.parameters()))
    for a, b in zip(expected, got, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "sizes",
    [[2, 3], [3, 1], [3, 3], [4, 0, 1], [-1, 6], [2, 2, 1, 2**62], [2**62, 2**62], [6]],
    ids=str,
)
@pytest.mark.parametrize("grad", [False, True])
def test_batch_sizes_that_do_not_fit_are_refused(sizes: list[int], grad: bool) -> None:
    module = make("LSTM", {})
    packed = PackedSequence(torch.randn(5, I), torch.tensor(sizes))
    with torch.set_grad_enabled(grad), pytest.raises((ValueError, RuntimeError)):
        module(packed)
