"""float16, bfloat16 and autocast: stored as asked, computed in float32, by one rule for all six
classes.
"""

from __future__ import annotations

import pytest
import torch
from test_torch_modules import CELLS, CLASSES, H, I, T, tensors
from torch.nn.utils.rnn import pack_padded_sequence

import fastrnn.torch

B = 3
HALF = (torch.float16, torch.bfloat16)
ALL = (*CLASSES, *CELLS)


def make(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    options = {} if name in CELLS else {"num_layers": 2, "bidirectional": True}
    module: torch.nn.Module = getattr(fastrnn.torch, name)(I, H, **options)
    return module


def sample(name: str) -> torch.Tensor:
    return torch.randn((B, I) if name in CELLS else (T, B, I))


def state(name: str, dtype: torch.dtype) -> object:
    h = torch.randn((B, H) if name in CELLS else (4, B, H)).to(dtype)
    return (h, h * 2) if "LSTM" in name else h


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", ALL)
def test_half_precision_is_float32_on_rounded_values(name: str, dtype: torch.dtype) -> None:
    """Results and gradients are those of float32 from the same stored values, rounded once at the
    end.
    """
    module = make(name).to(dtype)
    wide = make(name)
    wide.load_state_dict(module.state_dict())
    x, hx = sample(name).to(dtype), state(name, dtype)
    wide_hx = tuple(h.float() for h in hx) if isinstance(hx, tuple) else hx.float()  # type: ignore[attr-defined]
    results, expected = tensors(module(x, hx)), tensors(wide(x.float(), wide_hx))
    for got, want in zip(results, expected, strict=True):
        assert got.dtype is dtype
        assert torch.equal(got, want.to(dtype))
    dy = [torch.randn_like(result) for result in results]
    gradients = torch.autograd.grad(results, list(module.parameters()), dy)
    expected_gradients = torch.autograd.grad(
        expected, list(wide.parameters()), [d.float() for d in dy]
    )
    for got, want in zip(gradients, expected_gradients, strict=True):
        assert got.dtype is dtype
        assert torch.equal(got, want.to(dtype))


@pytest.mark.parametrize("name", CLASSES)
def test_half_precision_is_as_close_to_torch_as_its_rounding(name: str) -> None:
    module = make(name).bfloat16()
    theirs = getattr(torch.nn, name)(I, H, 2, bidirectional=True).bfloat16()
    theirs.load_state_dict(module.state_dict())
    x = sample(name).bfloat16()
    for got, expected in zip(tensors(module(x)), tensors(theirs(x)), strict=True):
        torch.testing.assert_close(got, expected, rtol=2**-6, atol=2**-6)


@pytest.mark.parametrize("input_dtype", [torch.float32, *HALF], ids=str)
@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", ALL)
def test_autocast_follows_one_rule(name: str, dtype: torch.dtype, input_dtype: torch.dtype) -> None:
    """torch.nn on the CPU: bfloat16 from LSTM and RNN, float32 from GRU; a bfloat16 state with
    float32 x crashes.
    """
    module = make(name)
    x, hx = sample(name).to(input_dtype), state(name, dtype)
    with torch.autocast("cpu", dtype):
        results = tensors(module(x, hx))
        assert {t.dtype for t in tensors(module(x))} == {dtype}
    assert {t.dtype for t in results} == {dtype}
    wide_hx = tuple(h.float() for h in hx) if isinstance(hx, tuple) else hx.float()  # type: ignore[attr-defined]
    for got, want in zip(results, tensors(module(x.float(), wide_hx)), strict=True):
        assert torch.equal(got, want.to(dtype))
    results[0].sum().backward()
    assert {p.grad.dtype for p in module.parameters() if p.grad is not None} == {torch.float32}


@pytest.mark.parametrize("name", CLASSES)
def test_autocast_leaves_float64_alone(name: str) -> None:
    module = make(name).double()
    x = sample(name).double()
    with torch.autocast("cpu", torch.bfloat16):
        for got, expected in zip(tensors(module(x)), tensors(module(x)), strict=True):
            assert got.dtype is torch.float64
            assert torch.equal(got, expected)


def test_autocast_holds_for_packed_sequences_and_for_what_is_not_the_core() -> None:
    module = make("GRU")
    x = sample("GRU")
    packed = pack_padded_sequence(x, [7, 3, 1])
    expected = module(packed)[0].data.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module(packed)[0].data, expected)
        y, _ = torch.func.functional_call(module, dict(module.named_parameters()), (x,))
        batched = torch.func.vmap(lambda x: module(x.unsqueeze(1))[0].squeeze(1), 1, 1)(x)
    assert batched.dtype is torch.bfloat16
    torch.testing.assert_close(batched, y)


def test_a_first_derivative_to_be_differentiated_again_is_not_rounded_by_autocast() -> None:
    module = make("LSTM")
    x = sample("LSTM").requires_grad_()
    results = []
    for enabled in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y, _ = module(x)
            (dx,) = torch.autograd.grad(y, x, torch.ones_like(y), create_graph=True)
        results.append((dx, *torch.autograd.grad(dx.pow(2).sum(), list(module.parameters())[:2])))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want)
