"""fastrnn.torch's modules give what torch.nn's give: outputs, states, every gradient, in every
configuration.
"""

from __future__ import annotations

import inspect
import itertools
import warnings
from typing import Any

import pytest
import torch
from tolerances import assert_close
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence

import fastrnn.torch

CLASSES = ("RNN", "LSTM", "GRU")
CELLS = ("RNNCell", "LSTMCell", "GRUCell")
T, B, I, H, P = 7, 5, 4, 6, 3
LENGTHS = [3, 7, 1, 7, 4]
DTYPES = (torch.float32, torch.float64)


def numpy_dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def pair(name: str, *args: Any, **options: Any) -> tuple[torch.nn.Module, torch.nn.Module]:
    """torch's module and ours, with the same weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dropout with one layer
        theirs = getattr(torch.nn, name)(*args, **options)
        ours = getattr(fastrnn.torch, name)(*args, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def tensors(result: Any) -> list[torch.Tensor]:
    if isinstance(result, PackedSequence):
        return [result.data]
    if isinstance(result, torch.Tensor):
        return [result]
    return [tensor for part in result for tensor in tensors(part)]


def states(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Any:
    h = torch.randn(shape, dtype=dtype, requires_grad=True)
    return (h, torch.randn(shape, dtype=dtype, requires_grad=True)) if "LSTM" in name else h


def results_and_gradients(
    module: torch.nn.Module, inputs: tuple[Any, ...], seed: int = 1
) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    results = tensors(module(*inputs))
    torch.manual_seed(seed + 1)
    cotangents = [torch.randn(result.shape, dtype=result.dtype) for result in results]
    wanted = [t for t in tensors([i for i in inputs if i is not None]) if t.requires_grad]
    wanted += list(module.parameters())
    return results + list(torch.autograd.grad(results, wanted, cotangents))


def assert_same(theirs: torch.nn.Module, ours: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
    expected = results_and_gradients(theirs, inputs)
    got = results_and_gradients(ours, inputs)
    dtype = numpy_dtype(expected[0].dtype)
    for number, (g, e) in enumerate(zip(got, expected, strict=True)):
        assert g.dtype == e.dtype
        assert g.device == e.device
        assert_close(g.detach(), e.detach(), dtype, "gradient", T, name=f"result {number}")


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")  # torch.nn's
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["padded", "packed", "sorted packed", "unbatched"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("batch_first", [False, True], ids=["TBI", "BTI"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one_way", "two_ways"])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("name", [*CLASSES, "RNN relu", "LSTM projected"])
def test_module_equals_torch(
    name: str,
    layers: int,
    bidirectional: bool,
    batch_first: bool,
    bias: bool,
    kind: str,
    dtype: torch.dtype,
) -> None:
    torch.manual_seed(0)
    name, *variant = name.split()
    options: dict[str, Any] = {}
    if variant:
        options = {"proj_size": P} if name == "LSTM" else {"nonlinearity": variant[0]}
    theirs, ours = pair(
        name,
        I,
        H,
        num_layers=layers,
        bidirectional=bidirectional,
        batch_first=batch_first,
        bias=bias,
        dtype=dtype,
        **options,
    )
    shape = (B, T, I) if batch_first else (T, B, I)
    x = torch.randn(shape, dtype=dtype, requires_grad=True)
    rows = layers * (2 if bidirectional else 1)
    batch: tuple[int, ...] = (rows,) if kind == "unbatched" else (rows, B)
    hx = states(name, (*batch, H), dtype)
    if options.get("proj_size"):
        hx = torch.randn((*batch, P), dtype=dtype, requires_grad=True), hx[1]
    inputs: Any = x
    if kind == "unbatched":
        inputs = torch.randn(T, I, dtype=dtype, requires_grad=True)
    elif "packed" in kind:
        lengths = sorted(LENGTHS, reverse=True) if "sorted" in kind else LENGTHS
        inputs = pack_padded_sequence(
            x, torch.tensor(lengths), batch_first, enforce_sorted="sorted" in kind
        )
        inputs = PackedSequence(inputs.data.detach().requires_grad_(), *inputs[1:])
    for state in (hx, None):
        assert_same(theirs, ours, (inputs, state))
        with torch.no_grad():
            for got, want in zip(*(tensors(m(inputs, state)) for m in (ours, theirs)), strict=True):
                assert_close(got, want, numpy_dtype(dtype), "forward", T)


@pytest.mark.parametrize("kind", ["padded", "packed"])
@pytest.mark.parametrize("batch_first", [False, True], ids=["TBI", "BTI"])
@pytest.mark.parametrize("name", CLASSES)
def test_dropout_draws_the_zeros_that_torch_draws(name: str, batch_first: bool, kind: str) -> None:
    theirs, ours = pair(
        name, I, H, 3, dropout=0.4, bidirectional=True, batch_first=batch_first, dtype=torch.float64
    )
    x: Any = torch.randn((B, T, I) if batch_first else (T, B, I), dtype=torch.float64)
    if kind == "packed":
        x = pack_padded_sequence(x, torch.tensor(LENGTHS), batch_first, enforce_sorted=False)
    assert_same(theirs, ours, (x,))
    one, other = (results_and_gradients(ours, (x,), seed)[0] for seed in (3, 5))
    assert not torch.equal(one, other)
    theirs.eval(), ours.eval()
    assert_same(theirs, ours, (x,))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(B,), ()], ids=["batch", "unbatched"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("name", [*CELLS, "RNNCell relu"])
def test_cell_equals_torch(
    name: str, bias: bool, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    name, *nonlinearity = name.split()
    theirs, ours = pair(name, I, H, bias, *nonlinearity, dtype=dtype)
    x = torch.randn((*shape, I), dtype=dtype, requires_grad=True)
    for hx in (None, states(name, (*shape, H), dtype)):
        assert_same(theirs, ours, (x, hx))
        with torch.no_grad():
            for got, expected in zip(tensors(ours(x, hx)), tensors(theirs(x, hx)), strict=True):
                assert_close(got, expected, numpy_dtype(dtype), "forward")


@pytest.mark.parametrize("batch_first", [False, True], ids=["TBI", "BTI"])
@pytest.mark.parametrize("name", CLASSES)
def test_inputs_of_any_strides_are_taken(name: str, batch_first: bool) -> None:
    theirs, ours = pair(name, I, H, 2, batch_first=batch_first, dtype=torch.float64)
    wide = torch.randn(B, 2 * T, I, 3, dtype=torch.float64)
    strided = wide[:, ::2, :, 1]
    expanded = torch.randn(I, dtype=torch.float64).expand(B, T, I)
    for x in (strided, expanded, strided.flip(1).transpose(0, 1).transpose(0, 1)):
        x = x if batch_first else x.transpose(0, 1)
        hx = states(name, (2, 1, H), torch.float64)
        hx = tuple(s.expand(2, B, H) for s in hx) if name == "LSTM" else hx.expand(2, B, H)
        assert_same(theirs, ours, (x.detach().requires_grad_(), hx))


@pytest.mark.parametrize("name", CLASSES)
def test_weights_of_any_strides_are_taken(name: str) -> None:
    theirs, ours = pair(name, I, H, dtype=torch.float64)
    for module in (theirs, ours):
        for key, value in list(module.named_parameters()):
            if value.dim() == 2:
                setattr(module, key, torch.nn.Parameter(value.detach().t().contiguous().t()))
    assert_same(theirs, ours, (torch.randn(T, B, I, dtype=torch.float64),))


@pytest.mark.parametrize("name", [*CLASSES, *CELLS])
def test_a_negated_view_is_read_with_its_sign(name: str) -> None:
    theirs, ours = pair(name, I, H, dtype=torch.float64)
    shape = (B, I) if name in CELLS else (T, B, I)
    x = torch.randn(shape, dtype=torch.complex128).conj().imag
    assert x.is_neg()
    assert_same(theirs, ours, (x,))


@pytest.mark.parametrize("name", CLASSES)
def test_only_wanted_gradients_are_computed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastrnn.torch import kernels

    asked = []
    original = kernels.backward
    monkeypatch.setattr(
        kernels, "backward", lambda *a: (asked.append(tuple(a[4])), original(*a))[1]
    )
    theirs, ours = pair(name, I, H, dtype=torch.float64)
    x = torch.randn(T, B, I, dtype=torch.float64)
    for key in ("weight_hh_l0", "bias_ih_l0"):
        theirs.get_parameter(key).requires_grad_(False)
        ours.get_parameter(key).requires_grad_(False)
    for module in (theirs, ours):
        module(x)[0].sum().backward()
    assert asked == [(False, False, False, True, False, False, True)]
    for (key, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None) == (not p.requires_grad)
        assert_close(p.grad, q.grad, "float64", "gradient", T, name=key)


def test_nothing_is_kept_for_backward_when_no_gradient_is_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fastrnn.torch import kernels

    saves = []
    original = kernels.forward
    monkeypatch.setattr(
        kernels, "forward", lambda *a, **k: (saves.append(a[2]), original(*a, **k))[1]
    )
    module = fastrnn.torch.LSTM(I, H)
    x = torch.randn(T, B, I)
    with torch.no_grad():
        assert not module(x)[0].requires_grad
    with torch.inference_mode():
        assert module(x)[0].is_inference()
    assert not saves  # the whole stack in one call, which cannot save
    module.requires_grad_(False)(x)
    assert saves == [False]
    assert module(x.requires_grad_())[0].requires_grad
    assert saves == [False, True]


@pytest.mark.parametrize("name", CLASSES)
def test_unused_results_get_no_gradient_and_retain_graph_works(name: str) -> None:
    theirs, ours = pair(name, I, H, 2, dtype=torch.float64)
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    gradients = []
    for module in (theirs, ours):
        _, state = module(x)
        h_n = state[0] if name == "LSTM" else state
        first = torch.autograd.grad(h_n[-1].sum(), [x, *module.parameters()], retain_graph=True)
        again = torch.autograd.grad(h_n[-1].sum(), [x, *module.parameters()])
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        gradients.append(first)
        with pytest.raises(RuntimeError, match="second time"):
            h_n[-1].sum().backward()
    for expected, got in zip(*gradients, strict=True):
        assert_close(got, expected, "float64", "gradient", T)


def test_a_result_changed_in_place_before_backward_is_noticed() -> None:
    y, _ = fastrnn.torch.LSTM(I, H)(torch.randn(T, B, I))
    y.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("name", CLASSES)
def test_backward_in_eval_mode_works(name: str) -> None:
    theirs, ours = pair(name, I, H, 2, dropout=0.5, dtype=torch.float64)
    assert_same(theirs.eval(), ours.eval(), (torch.randn(T, B, I, dtype=torch.float64),))


@pytest.mark.parametrize("name", CLASSES)
def test_two_runs_give_the_same_bits(name: str) -> None:
    module = getattr(fastrnn.torch, name)(I, H, 2, bidirectional=True)
    x = torch.randn(T, B, I, requires_grad=True)
    for first, second in zip(
        results_and_gradients(module, (x,)), results_and_gradients(module, (x,)), strict=True
    ):
        assert torch.equal(first, second)


@pytest.mark.parametrize("name", CLASSES)
def test_an_empty_batch_passes_and_an_empty_sequence_raises_as_torch_does(name: str) -> None:
    theirs, ours = pair(name, I, H)
    x = torch.zeros(T, 0, I)
    assert [t.shape for t in tensors(ours(x))] == [t.shape for t in tensors(theirs(x))]
    for module in (theirs, ours):
        with pytest.raises(
            RuntimeError, match="Expected sequence length to be larger than 0 in RNN"
        ):
            module(torch.zeros(0, B, I))


def test_a_single_packed_sequence_and_equal_lengths_work() -> None:
    theirs, ours = pair("GRU", I, H, bidirectional=True, dtype=torch.float64)
    for lengths in ([T], [4, 4, 4]):
        packed = pack_sequence([torch.randn(n, I, dtype=torch.float64) for n in lengths])
        assert_same(theirs, ours, (packed,))


BAD_CALLS = {
    "too many dimensions": lambda x, h: (x[None], h),
    "one dimension": lambda x, h: (x[0, 0], h),
    "input size": lambda x, h: (torch.cat([x, x], -1), h),
    "dtype of x": lambda x, h: (x.double(), h),
    "dtype of h": lambda x, h: (x, h.double()),
    "batch of h": lambda x, h: (x, h[:, 1:]),
    "layers of h": lambda x, h: (x, h[1:]),
    "size of h": lambda x, h: (x, h[..., 1:]),
    "h without batch": lambda x, h: (x, h[:, 0]),
    "x without batch": lambda x, h: (x[:, 0], h),
    "integers": lambda x, h: (x.long(), h),
    "no tensor": lambda x, h: (x.tolist(), h),
}


@pytest.mark.parametrize("case", BAD_CALLS)
@pytest.mark.parametrize("name", CLASSES)
def test_a_bad_call_raises_what_torch_raises(name: str, case: str) -> None:
    theirs, ours = pair(name, I, H, 2)
    x, h = BAD_CALLS[case](torch.randn(T, B, I), torch.randn(2, B, H))
    hx = (h, h) if name == "LSTM" else h
    raised = []
    for module in (theirs, ours):
        with pytest.raises(Exception) as error:  # noqa: PT011
            module(x, hx)
        raised.append((error.type, str(error.value)))
    assert raised[1] == raised[0]


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
@pytest.mark.parametrize("other", ["_l0_reverse", "_l1"])
@pytest.mark.parametrize("name", CLASSES)
def test_weights_of_several_sizes_are_refused(name: str, other: str, grad: bool) -> None:
    """What torch reads beyond its memory or refuses by other words: parameters changed later."""
    bidirectional = other.endswith("_reverse")
    module = getattr(fastrnn.torch, name)(H, H, 2 - bidirectional, bidirectional=bidirectional)
    larger = getattr(fastrnn.torch, name)(H, 4 * H)
    for key in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        setattr(module, f"{key}{other}", getattr(larger, f"{key}_l0"))
    with torch.set_grad_enabled(grad), pytest.raises((ValueError, RuntimeError)):
        module(torch.randn(T, B, H))


BAD_STEPS = {
    "dimensions of x": lambda x, h: (x[None], h),
    "dimensions of h": lambda x, h: (x, h[None]),
    "input size": lambda x, h: (x[:, 1:], h),
    "hidden size": lambda x, h: (x, h[:, 1:]),
    "batch": lambda x, h: (x, h[1:]),
    "dtype": lambda x, h: (x.double(), h),
    "no tensor": lambda x, h: (x.tolist(), h),
    "no tensor for h": lambda x, h: (x, (h, h)),
}


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
@pytest.mark.parametrize("case", BAD_STEPS)
@pytest.mark.parametrize("name", CELLS)
def test_a_bad_step_raises_what_torch_raises(name: str, case: str, grad: bool) -> None:
    theirs, ours = pair(name, I, H)
    x, h = BAD_STEPS[case](torch.randn(B, I), torch.randn(B, H))
    hx = (h, h) if name == "LSTMCell" else h
    raised = []
    for module in (theirs, ours):
        with (
            torch.set_grad_enabled(grad),
            pytest.raises(Exception) as error,  # noqa: PT011
        ):
            module(x, hx)
        raised.append((error.type, str(error.value)))
    assert raised[1] == raised[0]


CONSTRUCTORS = (
    {"hidden_size": 0},
    {"input_size": 0},
    {"num_layers": 0},
    {"dropout": 2},
    {"dropout": True, "num_layers": 2},
    {"bias": 1},
    {"batch_first": "yes"},
    {"hidden_size": 2.5},
    {"input_size": "4"},
    {"nonlinearity": "sin"},
    {"proj_size": -1},
    {"proj_size": 9},
    {"depth": 3},
)


@pytest.mark.parametrize("options", CONSTRUCTORS, ids=str)
@pytest.mark.parametrize("name", CLASSES)
def test_a_bad_constructor_raises_what_torch_raises(name: str, options: dict[str, Any]) -> None:
    raised = []
    for namespace in (torch.nn, fastrnn.torch):
        with pytest.raises((ValueError, TypeError, AssertionError)) as error:
            getattr(namespace, name)(**({"input_size": I, "hidden_size": H} | options))
        raised.append((error.type, str(error.value)))
    assert raised[1] == raised[0]


BAD_CELLS: tuple[tuple[tuple[Any, ...], dict[str, Any]], ...] = (
    ((), {}),
    ((I,), {}),
    ((I, H), {"depth": 3}),
    ((I, H), {"bias": False, "input_size": I}),
    ((I, H, True, "tanh", None, None, 1), {}),
)


@pytest.mark.parametrize(("args", "options"), BAD_CELLS, ids=str)
@pytest.mark.parametrize("name", CELLS)
def test_a_cell_made_wrongly_raises_what_torch_raises(
    name: str, args: tuple[Any, ...], options: dict[str, Any]
) -> None:
    raised = []
    for namespace in (torch.nn, fastrnn.torch):
        with pytest.raises(TypeError) as error:
            getattr(namespace, name)(*args, **options)
        raised.append(str(error.value))
    assert raised[1] == raised[0]


@pytest.mark.parametrize("name", CELLS)
def test_the_parameters_of_a_cell_are_those_of_torch(name: str) -> None:
    theirs, ours = (
        [(p.name, p.default) for p in inspect.signature(c).parameters.values()]
        for c in (getattr(torch.nn, name), getattr(fastrnn.torch, name))
    )
    assert ours[: len(theirs)] == theirs
    skipped = torch.nn.utils.skip_init(getattr(fastrnn.torch, name), I, H, bias=False)
    assert [key for key, _ in skipped.named_parameters()] == ["weight_ih", "weight_hh"]


def test_dropout_with_one_layer_warns_as_torch_does() -> None:
    with pytest.warns(
        UserWarning, match="dropout option adds dropout after all but last recurrent layer"
    ):
        fastrnn.torch.LSTM(I, H, dropout=0.5)


def test_positional_arguments_are_those_of_torch() -> None:
    for name, args in {
        "RNN": (I, H, 2, "relu", False, True, 0.5, True),
        "LSTM": (I, H, 2, False, True, 0.5, True, 0),
        "GRU": (I, H, 2, False, True, 0.5, True),
        "RNNCell": (I, H, False, "relu"),
        "LSTMCell": (I, H, False),
        "GRUCell": (I, H, False),
    }.items():
        theirs, ours = getattr(torch.nn, name)(*args), getattr(fastrnn.torch, name)(*args)
        assert repr(ours) == repr(theirs)
        assert isinstance(ours, type(theirs))
        assert type(ours).__qualname__ == type(theirs).__qualname__
        public = {key for key in vars(theirs) if not key.startswith("_")}
        assert {key: vars(ours)[key] for key in public} == {
            key: vars(theirs)[key] for key in public
        }


def test_the_same_seed_initialises_the_same_weights() -> None:
    for name in (*CLASSES, *CELLS):
        torch.manual_seed(3)
        theirs = getattr(torch.nn, name)(I, H)
        torch.manual_seed(3)
        ours = getattr(fastrnn.torch, name)(I, H)
        for p, q in itertools.zip_longest(ours.parameters(), theirs.parameters()):
            assert torch.equal(p, q)
