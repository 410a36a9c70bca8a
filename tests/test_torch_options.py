"""What the modules of fastrnn.torch have beyond torch.nn's: the same numbers as the NumPy layers,
and everything that a module of torch can do.
"""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from test_torch_modules import tensors
from torch.nn.utils.rnn import pack_padded_sequence

import fastrnn
import fastrnn.torch
from fastrnn import _core, checkpoint
from fastrnn.torch import kernels

T, B, I, H = 6, 4, 5, 9
LSTM: dict[str, dict[str, Any]] = {
    "peephole": {"peephole": True},
    "coupled": {"coupled": True, "peephole": True, "cell_clip": 0.3},
    "state norm": {"layer_norm": "state", "bias": False},
    "projected": {"proj_size": 4, "layer_norm": "output", "zoneout": (0.3, 0.2)},
    "activations": {
        "activations": ["hardsigmoid", "sigmoid", ("scaledtanh", 0.9, 0.7), "relu", "softsign"]
    },
}
ALL: dict[str, dict[str, Any]] = {
    "norm": {"layer_norm": "output"},
    "zoneout": {"zoneout": 0.3},
    "recurrent dropout": {"recurrent_dropout": 0.3},
    "weight dropout": {"weight_dropout": 0.3, "clip": 0.8},
    "recompute": {"recompute": True},
}
CASES = [("LSTM", options) for options in LSTM.values()]
CASES += [(name, options) for options in ALL.values() for name in ("LSTM", "GRU", "RNN")]
CASES += [("GRU", {"reset_after": False, "layer_norm": "output", "recurrent_dropout": 0.2})]


def ids(value: object) -> str:
    return str(value)


def make(name: str, options: dict[str, Any], **more: Any) -> Any:
    torch.manual_seed(0)
    return getattr(fastrnn.torch, name)(I, H, **options, **more)


def parts(state: Any) -> list[Any]:
    return list(state) if isinstance(state, tuple) else [state]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("name", "options"), CASES, ids=ids)
def test_bits_are_those_of_the_numpy_layer(
    name: str, options: dict[str, Any], training: bool
) -> None:
    sizes: dict[str, Any] = {"num_layers": 2, "bidirectional": True}
    module = make(name, options, **sizes).train(training)
    torch.manual_seed(1)
    seed = int(torch.randint(2**63 - 1, ()))
    numpy = {n: v for n, v in options.items() if n != "recompute"}
    layer = getattr(fastrnn, name)(I, H, **sizes, **numpy, seed=seed)
    layer.load_state_dict({n: p.detach().numpy() for n, p in module.state_dict().items()})

    x = torch.randn(T, B, I, requires_grad=True)
    lengths = torch.tensor([T, 3, 0, 4])
    torch.manual_seed(1)
    y, state = module(x, lengths=lengths)
    arguments: dict[str, Any] = {"lengths": lengths.numpy(), "training": training}
    y_, state_ = layer.forward(x.detach().numpy(), **arguments)
    for got, expected in zip((y, *parts(state)), (y_, *parts(state_)), strict=True):
        np.testing.assert_array_equal(got.detach().numpy(), expected)
    if not training:
        return
    dy = torch.randn_like(y)
    y.backward(dy)
    gradients = layer.backward(dy.numpy())
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), gradients.dx)
    for key, p in module.named_parameters():
        np.testing.assert_array_equal(p.grad.numpy(), gradients.parameters[key], err_msg=key)


@pytest.mark.parametrize("option", ["zoneout", "recurrent_dropout", "weight_dropout"])
def test_masks_are_new_in_each_training_forward_and_follow_torchs_seed(option: str) -> None:
    module, x = make("LSTM", {option: 0.4}), torch.randn(T, B, I)
    first, second = module(x)[0], module(x)[0]
    assert not torch.equal(first, second)
    runs = []
    for _ in range(2):
        torch.manual_seed(3)
        runs.append(module(x)[0])
    assert torch.equal(*runs)
    with torch.no_grad():  # masks belong to training, not to gradients
        assert not torch.equal(module(x)[0], module(x)[0])
    module.eval()
    assert torch.equal(module(x)[0], module(x)[0])
    plain = make("LSTM", {})
    plain.load_state_dict(module.state_dict())
    assert torch.equal(module(x)[0], plain(x)[0]) == (option != "zoneout")


def test_parameters_have_the_names_order_and_first_values_of_the_numpy_layer() -> None:
    options: dict[str, Any] = {"peephole": True, "layer_norm": "output", "proj_size": 4}
    module = make("LSTM", options, num_layers=2, bidirectional=True)
    layer = fastrnn.LSTM(I, H, num_layers=2, bidirectional=True, **options)
    shapes = {name: value.shape for name, value in layer.parameters.items()}
    assert list(module.state_dict()) == list(shapes)
    assert {name: tuple(p.shape) for name, p in module.named_parameters()} == shapes
    assert [len(row) for row in module.all_weights] == [10] * 4
    for name, parameter in module.named_parameters():
        if name.startswith(("gain_", "bias_c_")):
            assert (parameter == (1.0 if name.startswith("gain_") else 0.0)).all(), name
        else:
            bound = 1 / np.sqrt(H)
            assert parameter.abs().max() <= bound, name
            assert parameter.std() > 0.3 * bound, name


@pytest.mark.parametrize(
    ("name", "options", "shown"),
    [
        ("LSTM", {"peephole": True, "zoneout": (0.1, 0.2)}, "peephole=True, zoneout=(0.1, 0.2)"),
        ("GRU", {"layer_norm": "output", "recompute": True}, "layer_norm='output', recompute=True"),
        ("RNN", {"activations": [("leakyrelu", 0.2)]}, "activations=(('leakyrelu', 0.2),)"),
        ("LSTMCell", {"peephole": True}, "peephole=True"),
    ],
    ids=ids,
)
def test_a_copy_of_any_kind_computes_the_same(
    name: str, options: dict[str, Any], shown: str
) -> None:
    module = make(name, options).eval()
    assert repr(module) == f"{name}({I}, {H}, {shown})"
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    emptied = make(name, options, device="meta").to_empty(device="cpu").eval()
    emptied.load_state_dict(module.state_dict())
    x = torch.randn(B, I) if name.endswith("Cell") else torch.randn(T, B, I)
    for other in (
        copy.deepcopy(module),
        pickle.loads(pickle.dumps(module)),
        torch.load(file, weights_only=True),
        emptied,
    ):
        assert repr(other) == repr(module)
        for got, expected in zip(tensors(other(x)), tensors(module(x)), strict=True):
            assert torch.equal(got, expected)


def test_meta_tensors_have_the_shapes_of_the_results() -> None:
    options: dict[str, Any] = {"peephole": True, "proj_size": 4, "zoneout": 0.1}
    module = make("LSTM", options, device="meta")
    y, (h, c) = module(torch.empty(T, B, I, device="meta"))
    assert y.is_meta
    assert (y.shape, h.shape, c.shape) == ((T, B, 4), (1, B, 4), (1, B, H))


def test_replace_leaves_a_module_with_options_as_it_is() -> None:
    module = make("LSTM", {"peephole": True, "recompute": True})
    model = torch.nn.Sequential(module, torch.nn.LSTM(H, H))
    assert fastrnn.torch.replace(model) == ({"1": "LSTM"}, {})
    assert model[0] is module
    assert "peephole=True" in repr(model[0])


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("GRU", {"peephole": True}, ValueError, "GRU: argument 'peephole' must be left out"),
        ("RNN", {"coupled": True}, ValueError, "RNN: argument 'coupled' must be left out"),
        ("LSTM", {"zoneout": 1.5}, ValueError, r"LSTM: argument 'zoneout' must be in \[0, 1\]"),
        ("GRU", {"zoneout": (0.1, 0.1)}, ValueError, "there is no c"),
        ("LSTM", {"layer_norm": "batch"}, ValueError, "LSTM: layer_norm must be one of"),
        ("LSTM", {"activations": ["tanh"]}, ValueError, "must be a sequence of 5, got"),
        ("LSTM", {"activations": ["swish"] * 5}, ValueError, "got 'swish'"),
        ("LSTM", {"clip": 0.0}, ValueError, "argument 'clip' must be above 0"),
        ("LSTM", {"clip": "a"}, TypeError, "argument 'clip' must be a number"),
        ("LSTM", {"recompute": "yes"}, TypeError, "recompute must be a bool, got 'yes'"),
        ("LSTM", {"dropconnect": 0.1}, TypeError, "dropconnect"),
        ("GRU", {"proj_size": 3}, ValueError, "proj_size argument is only supported for LSTM"),
        ("LSTMCell", {"recurrent_dropout": 0.1}, TypeError, "LSTMCell: .*recurrent_dropout"),
        ("GRUCell", {"peephole": True}, ValueError, "GRUCell: argument 'peephole' must be left"),
    ],
    ids=ids,
)
def test_an_option_that_does_not_fit_is_refused(
    name: str, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make(name, options)


def test_wrong_input_is_refused_in_the_words_of_torch() -> None:
    module, theirs = make("LSTM", {"coupled": True}), torch.nn.LSTM(I, H)
    for x in (torch.randn(T, B, I + 1), torch.randn(I), torch.randn(T, B, I).double()):
        with pytest.raises((RuntimeError, ValueError)) as expected:
            theirs(x)
        with pytest.raises(type(expected.value)) as got:
            module(x)
        assert str(got.value) == str(expected.value)


@pytest.mark.parametrize("options", [{"layer_norm": "output"}, {"zoneout": 0.3}], ids=ids)
def test_packed_padded_and_unbatched_sequences_agree(options: dict[str, Any]) -> None:
    module = make("LSTM", options, num_layers=2, bidirectional=True).double().eval()
    x, lengths = torch.randn(T, B, I, dtype=torch.float64), torch.tensor([3, T, 1, 4])
    y, (h, c) = module(x, lengths=lengths)
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    y_, (h_, c_) = module(packed)
    assert torch.equal(torch.nn.utils.rnn.pad_packed_sequence(y_)[0], y)
    assert torch.equal(h_, h)
    assert torch.equal(c_, c)
    assert torch.equal(module(x[:3, 0])[0], y[:3, 0])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("LSTM", {"peephole": True, "layer_norm": "state", "recompute": True}),
        ("GRU", {"layer_norm": "output", "zoneout": 0.2}),
    ],
    ids=ids,
)
def test_compile_and_export_take_the_options(name: str, options: dict[str, Any]) -> None:
    torch._dynamo.reset()
    module = make(name, options, num_layers=2).double().eval()
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    for steps, rows in ((T, B), (9, 2)):
        x = torch.randn(steps, rows, I, dtype=torch.float64)
        found = []
        for f in (module, compiled):
            y = f(x)[0]
            found.append([y, *torch.autograd.grad(y.square().sum(), list(module.parameters()))])
        for expected, got in zip(*found, strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=0)
    dynamic = {0: torch.export.Dim("T", max=64), 1: torch.export.Dim("B", max=16)}
    program = torch.export.export(module, (x,), dynamic_shapes=(dynamic,))
    x = torch.randn(5, 3, I, dtype=torch.float64)
    assert torch.equal(program.module()(x)[0], module(x)[0])


def test_a_compiled_module_draws_new_masks_in_each_call() -> None:
    torch._dynamo.reset()
    module = make("LSTM", {"zoneout": 0.4, "recurrent_dropout": 0.3})
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    x = torch.randn(T, B, I)
    assert not torch.equal(compiled(x)[0], compiled(x)[0])
    torch.manual_seed(1)
    y = compiled(x)[0]
    torch.manual_seed(1)
    assert torch.equal(module(x)[0], y)


def test_recompute_keeps_little_for_backward() -> None:
    """Beside x, y and the weights: the state every 2048 / B steps, not the gates of every step."""
    steps, kept = 1200, []
    for recompute in (False, True):
        module = make("LSTM", {"recompute": recompute})
        held: dict[int, int] = {}

        def pack(t: torch.Tensor, held: dict[int, int] = held) -> torch.Tensor:
            held[t.data_ptr()] = t.untyped_storage().nbytes()
            return t

        x = torch.randn(steps, B, I)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            y, _ = module(x)
        for t in (x, y, *module.parameters()):
            held.pop(t.data_ptr(), None)
        kept.append(sum(held.values()))
    assert kept[0] >= steps * B * 4 * H * 4
    assert kept[1] <= 8 * B * H * 4


@pytest.mark.parametrize("recompute", [False, True], ids=["saved", "recompute"])
@pytest.mark.parametrize(
    ("name", "options"),
    [("GRU", {}), ("LSTM", {"peephole": True, "layer_norm": "state", "proj_size": 4})],
    ids=ids,
)
def test_gradients_that_nobody_wants_are_not_computed(
    name: str, options: dict[str, Any], recompute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = make(name, {**options, "recompute": recompute}, bidirectional=True)
    inputs = torch.randn(1100, B, I)
    parameters = dict(module.named_parameters())
    computed: list[set[int]] = []

    def spy(core: Any) -> Any:
        def backward(*arguments: Any) -> Any:
            found = core(*arguments)
            computed.append({i for i, g in enumerate(found) if g is not None})
            return found

        return backward

    monkeypatch.setattr(checkpoint, "_core", mock.Mock(wraps=_core, backward=spy(_core.backward)))
    monkeypatch.setattr(kernels, "backward", spy(kernels.backward))

    def gradients(wanted: list[str]) -> list[torch.Tensor]:
        computed.clear()
        for key, p in parameters.items():
            p.requires_grad_(key in wanted)
        x = inputs.clone().requires_grad_("x" in wanted)
        sources = [x if key == "x" else parameters[key] for key in wanted]
        return list(torch.autograd.grad(module(x)[0].square().sum(), sources))

    names = ["x", *parameters]
    everything = dict(zip(names, gradients(names), strict=True))
    of_all = computed[0]
    # of recompute the core's own order, in which the state flows from chunk to chunk
    places = {"x": 0, "weight_ih_l0": 1, "bias_hh_l0": 4} if recompute else {}
    states = {5, 6} & of_all if recompute else set()
    for wanted in (["x"], ["weight_ih_l0"], ["bias_hh_l0"], ["x", "bias_hh_l0"]):
        for key, gradient in zip(wanted, gradients(wanted), strict=True):
            assert torch.equal(gradient, everything[key])
        expected = states | {
            places[key] if recompute else 0 if key == "x" else 3 + names.index(key) - 1
            for key in wanted
        }
        assert expected < of_all
        forward_direction = computed[:3] if recompute else computed
        assert all(found == expected for found in forward_direction)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("LSTMCell", {"peephole": True, "zoneout": (0.3, 0.2)}),
        ("LSTMCell", {"coupled": True, "cell_clip": 0.3, "layer_norm": "state"}),
        ("GRUCell", {"layer_norm": "output", "clip": 0.8}),
        ("GRUCell", {"reset_after": False, "zoneout": 0.3}),
        ("RNNCell", {"activations": ["softsign"], "bias": False}),
    ],
    ids=ids,
)
def test_a_cell_is_a_step_of_the_layer(name: str, options: dict[str, Any]) -> None:
    cell = make(name, options).eval()
    layer = make(name[:-4], options).eval()
    layer.load_state_dict({f"{key}_l0": value for key, value in cell.state_dict().items()})
    x = torch.randn(T, B, I)
    for context in (torch.enable_grad, torch.no_grad):
        with context():
            y, _ = layer(x)
            state = None
            for t in range(T):
                state = cell(x[t], state)
                assert torch.equal(parts(state)[0], y[t])
    cell.train()
    first, second = (parts(cell(x[0]))[0] for _ in range(2))
    assert torch.equal(first, second) == ("zoneout" not in options)
    double = copy.deepcopy(cell).double()

    def function(x: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(2)
        return parts(double(x))[0]

    point = x[0].double().requires_grad_()
    assert torch.autograd.gradcheck(function, point)
    assert torch.autograd.gradgradcheck(function, point)
