"""replace() and patch() turn torch.nn's modules into fastrnn's and lose nothing on the way."""

from __future__ import annotations

import copy

import pytest
import torch
from tolerances import assert_close

import fastrnn.torch

NAMES = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(11, 4)
        self.lstm = torch.nn.LSTM(4, 6, 2, batch_first=True, dtype=torch.float32)
        self.decoder = torch.nn.ModuleDict(
            {"gru": torch.nn.GRU(6, 5), "head": torch.nn.Linear(5, 3)}
        )
        self.cell = torch.nn.LSTMCell(3, 2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden, _ = self.lstm(self.embedding(tokens))
        decoded, _ = self.decoder["gru"](hidden)
        h, c = self.cell(self.decoder["head"](decoded[:, -1]))
        return torch.cat([h, c], -1)


def test_replace_reports_what_it_replaced_and_the_model_computes_the_same() -> None:
    model = Model()
    expected = copy.deepcopy(model)
    report = fastrnn.torch.replace(model)
    assert report.replaced == {"lstm": "LSTM", "decoder.gru": "GRU", "cell": "LSTMCell"}
    assert report.left == {}
    assert type(model.lstm) is fastrnn.torch.LSTM
    assert type(model.decoder["gru"]) is fastrnn.torch.GRU
    assert type(model.cell) is fastrnn.torch.LSTMCell
    tokens = torch.randint(0, 11, (5, 7))
    for m in (model, expected):
        m(tokens).square().sum().backward()
    assert_close(model(tokens).detach(), expected(tokens).detach(), "float32", "forward", 7)
    for (name, p), q in zip(model.named_parameters(), expected.parameters(), strict=True):
        assert_close(p.grad, q.grad, "float32", "gradient", 7, name=name)


def test_replace_keeps_objects_parameters_optimizer_hooks_and_mode() -> None:
    model = Model().eval()
    modules, parameters = list(model.modules()), list(model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    calls = []
    model.lstm.register_forward_hook(lambda *a: calls.append("hook"))
    fastrnn.torch.replace(model)
    assert all(a is b for a, b in zip(model.modules(), modules, strict=True))
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert not model.lstm.training
    before = model.lstm.weight_hh_l1.detach().clone()
    tokens = torch.randint(0, 11, (5, 7))
    output = model(tokens)
    output.sum().backward()
    optimizer.step()
    assert calls == ["hook"]
    assert not torch.equal(model.lstm.weight_hh_l1, before)
    assert not torch.equal(model(tokens), output)


@pytest.mark.parametrize("name", NAMES)
def test_replace_takes_the_model_itself(name: str) -> None:
    module = getattr(torch.nn, name)(3, 4)
    assert fastrnn.torch.replace(module).replaced == {"": name}
    assert type(module) is getattr(fastrnn.torch, name)
    assert repr(module) == repr(getattr(torch.nn, name)(3, 4))


def test_replace_twice_changes_nothing_more() -> None:
    model = Model()
    fastrnn.torch.replace(model)
    assert fastrnn.torch.replace(model) == ({}, {})


def test_replace_leaves_subclasses_and_says_why() -> None:
    class Own(torch.nn.GRU):
        pass

    model = torch.nn.ModuleList([Own(3, 4), torch.nn.LSTM(3, 4, proj_size=2), torch.nn.RNN(3, 4)])
    report = fastrnn.torch.replace(model)
    assert report.replaced == {"1": "LSTM", "2": "RNN"}
    assert set(report.left) == {"0"}
    assert "Own is a subclass" in report.left["0"]
    assert type(model[0]) is Own


def test_patch_makes_models_of_our_modules_and_puts_the_names_back() -> None:
    originals = [getattr(torch.nn, name) for name in NAMES]
    with fastrnn.torch.patch():
        model = Model()
        assert all(getattr(torch.nn, name) is getattr(fastrnn.torch, name) for name in NAMES)
    assert [getattr(torch.nn, name) for name in NAMES] == originals
    assert type(model.lstm) is fastrnn.torch.LSTM
    assert type(model.cell) is fastrnn.torch.LSTMCell
    model(torch.randint(0, 11, (5, 7))).sum().backward()


def test_patch_puts_the_names_back_after_an_error() -> None:
    original = torch.nn.LSTM
    with pytest.raises(ZeroDivisionError), fastrnn.torch.patch():
        _ = 1 / 0
    assert torch.nn.LSTM is original
    assert torch.nn.modules.LSTM is original
