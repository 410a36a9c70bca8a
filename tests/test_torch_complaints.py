"""What users of torch.nn's recurrent modules complained of, as far as no other file tests it: see
the table in docs/pytorch.md.
"""

from __future__ import annotations

import re
import warnings

import pytest
import torch
from commands import ROOT
from test_torch_modules import CLASSES, pair, results_and_gradients
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.profiler import ProfilerActivity, profile

import fastrnn.torch

B, I, H = 3, 4, 6


def test_every_test_that_the_documentation_names_exists() -> None:
    text = (ROOT / "docs" / "pytorch.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", text))
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").glob("test_torch_*.py"))
    assert len(named) > 15
    assert named <= set(re.findall(r"^def (test_\w+)", sources, re.MULTILINE))
    numbers = [int(n) for n in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)]
    assert numbers == [*range(1, 14), *range(15, 21)]


def operations(module: torch.nn.Module, steps: int) -> int:
    x = torch.randn(steps, B, I)
    packed = pack_padded_sequence(x, [steps, steps // 2, 1])
    packed = PackedSequence(packed.data.requires_grad_(), *packed[1:])
    module(packed)[0].data.sum().backward()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the profiler's own
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            module(packed)[0].data.sum().backward()
    return sum(event.count for event in seen.key_averages())


@pytest.mark.parametrize("name", CLASSES)
def test_a_packed_sequence_takes_as_many_operations_for_many_steps_as_for_few(name: str) -> None:
    """pytorch#149194. torch.nn's takes some for each step."""
    module = getattr(fastrnn.torch, name)(I, H)
    results = 16  # torch allocates large ones, each by an operation that is seen
    assert operations(module, 80) <= operations(module, 8) + results


def test_the_cell_state_at_every_step_can_be_had() -> None:
    """pytorch#31423"""
    module = fastrnn.torch.LSTM(I, H, dtype=torch.float64)
    x = torch.randn(7, B, I, dtype=torch.float64)
    weights = [p.detach() for p in module.parameters()]
    _, _, _, c = fastrnn.lstm_forward(x, *weights, return_cell_sequence=True)
    for t in range(7):
        torch.testing.assert_close(c[t], module(x[: t + 1])[1][1][0].detach())


@pytest.mark.parametrize("name", ["LSTM", "LSTMCell"])
def test_the_forget_gates_bias_can_be_set_like_any_parameter(name: str) -> None:
    """pytorch#20102. A gate that is wide open keeps the state."""
    module = getattr(fastrnn.torch, name)(I, H)
    with torch.no_grad():
        for p in module.parameters():
            p.zero_()
        for key, p in module.named_parameters():
            if "bias_ih" in key:
                p[H : 2 * H] = 100
                p[:H] = -100
    shape = (B, H) if name == "LSTMCell" else (1, B, H)
    h, c = torch.zeros(shape), torch.randn(shape)
    x = torch.randn(B, I) if name == "LSTMCell" else torch.randn(50, B, I)
    result = module(x, (h, c))
    torch.testing.assert_close(result[1] if name == "LSTMCell" else result[1][1], c)


@pytest.mark.parametrize("name", CLASSES)
def test_weights_need_be_no_single_chunk_of_memory(name: str) -> None:
    """pytorch/examples#248, pytorch#2460: a warning at each call, on a GPU a copy."""
    theirs, ours = pair(name, I, H, 2, dtype=torch.float64)
    for module in (theirs, ours):
        for key, p in list(module.named_parameters()):
            scattered = torch.nn.Parameter(torch.randn(3, *p.shape, dtype=p.dtype)[1])
            with torch.no_grad():
                scattered.copy_(p)
            setattr(module, key, scattered)
    x = torch.randn(7, B, I, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = results_and_gradients(ours, (x,))
    for g, e in zip(got, results_and_gradients(theirs, (x,)), strict=True):
        torch.testing.assert_close(g, e)


@pytest.mark.parametrize("name", CLASSES)
def test_a_module_without_flat_weights_computes(name: str) -> None:
    """flair#3158: modules that old versions of torch pickled have none."""
    old = getattr(torch.nn, name)(I, H, 2)
    x = torch.randn(7, B, I)
    expected = old(x)[0]
    del old._flat_weights
    with pytest.raises(AttributeError):
        old(x)
    assert fastrnn.torch.replace(old).replaced == {"": name}
    torch.testing.assert_close(old(x)[0], expected)
    with torch.no_grad():
        torch.testing.assert_close(old(x)[0], expected)
