"""torch's own samples of its six classes (ModuleInfo, shipped in its wheel), on ours.

Run by tests/test_torch_module_info.py.
"""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from test_torch_modules import tensors
from torch.autograd import gradcheck, gradgradcheck
from torch.testing._internal.common_modules import (
    ModuleErrorEnum,
    ModuleInput,
    module_db,
)

import fastrnn.torch

CLASSES = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")
INFOS = {
    info.module_cls.__name__: info
    for info in module_db
    if info.module_cls.__module__ == "torch.nn.modules.rnn"
}


def samples(name: str, dtype: torch.dtype, requires_grad: bool = False) -> Iterator[ModuleInput]:
    info = INFOS[name]
    options = {"with_packed_sequence": True} if name in ("RNN", "GRU") else {}
    arguments = {"device": "cpu", "dtype": dtype, "requires_grad": requires_grad}
    torch.manual_seed(0)
    yield from info.module_inputs_func(info, training=True, **arguments, **options)


def build(
    name: str, sample: ModuleInput, dtype: torch.dtype
) -> tuple[torch.nn.Module, torch.nn.Module]:
    arguments = sample.constructor_input
    kwargs = {**arguments.kwargs, "dtype": dtype}
    theirs = getattr(torch.nn, name)(*arguments.args, **kwargs)
    ours = getattr(fastrnn.torch, name)(*arguments.args, **kwargs)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def run(module: torch.nn.Module, sample: ModuleInput) -> list[torch.Tensor]:
    return tensors(module(*sample.forward_input.args, **sample.forward_input.kwargs))


def test_torch_has_samples_of_all_six_classes() -> None:
    assert set(INFOS) == set(CLASSES)
    assert all(list(samples(name, torch.float32)) for name in CLASSES)


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")  # torch.nn's
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", CLASSES)
def test_samples_give_what_torch_gives(name: str, dtype: torch.dtype) -> None:
    for sample in samples(name, dtype):
        theirs, ours = build(name, sample, dtype)
        expected = run(theirs, sample)
        for module in (ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
            for got, want in zip(run(module, sample), expected, strict=True):
                torch.testing.assert_close(got, want)


@pytest.mark.parametrize("name", CLASSES)
def test_samples_give_the_same_whatever_their_strides(name: str) -> None:
    def spread(value: Any) -> Any:
        if isinstance(value, tuple) and not hasattr(value, "_fields"):
            return tuple(spread(v) for v in value)
        if not isinstance(value, torch.Tensor) or value.dim() == 0:
            return value
        return value.repeat_interleave(2, -1)[..., ::2]

    for sample in samples(name, torch.float64):
        _, ours = build(name, sample, torch.float64)
        expected = run(ours, sample)
        sample.forward_input.args = tuple(spread(a) for a in sample.forward_input.args)
        for got, want in zip(run(ours, sample), expected, strict=True):
            assert torch.equal(got, want)


@pytest.mark.parametrize("name", CLASSES)
def test_samples_pass_gradcheck_and_gradgradcheck(name: str) -> None:
    for sample in samples(name, torch.float64, requires_grad=True):
        _, ours = build(name, sample, torch.float64)
        arguments = sample.forward_input.args
        leaves = [t for t in tensors(arguments) if t.is_leaf and t.requires_grad]
        names = [key for key, _ in ours.named_parameters()]

        def function(
            *values: torch.Tensor, ours: Any = ours, names: Any = names, arguments: Any = arguments
        ) -> tuple[torch.Tensor, ...]:
            weights = dict(zip(names, values[-len(names) :], strict=True))
            return tuple(tensors(torch.func.functional_call(ours, weights, arguments)))

        point = (*leaves, *ours.parameters())
        assert gradcheck(function, point, fast_mode=True)
        assert gradgradcheck(function, point, fast_mode=True)


def errors() -> Iterator[Any]:
    for name in CLASSES:
        info = INFOS[name]
        made = info.module_error_inputs_func(
            info, device="cpu", dtype=torch.float32, requires_grad=False, training=True
        )
        for number, error in enumerate(made):
            yield pytest.param(name, error, id=f"{name}-{number}")


@pytest.mark.parametrize(("name", "error"), list(errors()))
def test_what_torch_must_refuse_is_refused_in_its_words(name: str, error: Any) -> None:
    arguments = error.module_error_input.constructor_input
    kind = getattr(fastrnn.torch, name)
    if error.error_on is ModuleErrorEnum.CONSTRUCTION_ERROR:
        with pytest.raises(error.error_type, match=error.error_regex):
            kind(*arguments.args, **arguments.kwargs)
        return
    module = kind(*arguments.args, **arguments.kwargs)
    given = error.module_error_input.forward_input
    with pytest.raises(error.error_type) as raised:
        module(*given.args, **given.kwargs)
    assert re.search(error.error_regex, str(raised.value))
