"""Derivatives beyond the first backward: second order, forward mode, torch.func's transforms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_torch_modules import tensors
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import fastrnn.torch
import fastrnn.torch.derivatives
import fastrnn.torch.formula
import fastrnn.torch.ops
from fastrnn.torch import kernels
from fastrnn.torch.formula import layer as formula_layer
from fastrnn.torch.layer import layer
from fastrnn.torch.spec import Inputs, Spec

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # forward_ad itself

CELLS = {
    "lstm": "LSTM",
    "gru": "GRU",
    "gru_reset_before": "GRU",
    "rnn_tanh": "RNN",
    "rnn_relu": "RNN",
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no_bias": {"bias": False},
    "stacked": {"num_layers": 2, "bidirectional": True},
    "batch_first": {"batch_first": True},
    "packed": {"bidirectional": True},
    "marks": {"bidirectional": True},
    "projected": {"num_layers": 2, "bidirectional": True, "proj_size": 2},
    "peephole": {"bidirectional": True, "peephole": True},
    "coupled": {"coupled": True, "peephole": True},
    "clip": {"clip": 0.6},
    "cell_clip": {"cell_clip": 0.1},
    "layer_norm": {"bidirectional": True, "layer_norm": "output"},
    "layer_norm_state": {"layer_norm": "state", "bias": False},
    "zoneout": {"num_layers": 2, "zoneout": 0.4},
    "recurrent_dropout": {"bidirectional": True, "recurrent_dropout": 0.4},
    "weight_dropout": {"weight_dropout": 0.4},
    "activations": {},
    "recompute": {"num_layers": 2, "bidirectional": True, "recompute": True},
    "everything": {
        **{"num_layers": 2, "bidirectional": True, "layer_norm": "output", "clip": 2.0},
        **{"zoneout": 0.2, "recurrent_dropout": 0.2, "weight_dropout": 0.2},
    },
}
FOR = {"activations": ["lstm", "gru", "rnn_tanh"], "recompute": ["gru", "rnn_tanh"]}
for option in ("projected", "peephole", "coupled", "cell_clip", "layer_norm_state"):
    FOR[option] = ["lstm"]
for option in ("clip", "weight_dropout"):
    FOR[option] = ["lstm", "gru_reset_before"]
for option in ("layer_norm", "zoneout", "recurrent_dropout"):
    FOR[option] = ["lstm", "gru"]
CASES = [(c, o) for o in OPTIONS for c in FOR.get(o, CELLS)]
# the formula draws masks slowly, and forward mode calls it for each of many points
TWO = [(c, o) for c, o in CASES if o not in ("recompute", "everything")]
ACTIVATIONS = (("scaledtanh", 0.9, 0.7), "softsign", ("affine", 0.8, 0.1), "softplus", "sigmoid")
T, B, I, H = 4, 3, 2, 3


def make(cell: str, **options: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    if cell == "gru_reset_before":
        options["reset_after"] = False
    if cell == "rnn_relu":
        options["nonlinearity"] = "relu"
    module: torch.nn.Module = getattr(fastrnn.torch, CELLS[cell])(
        I, H, dtype=torch.float64, **options
    )
    return module


def problem(cell: str, option: str) -> tuple[Callable[..., Any], tuple[torch.Tensor, ...]]:
    """A function of x, the initial state and the parameters, and a point."""
    if option == "activations":
        module = make(cell, activations=ACTIVATIONS[: {"lstm": 5, "rnn_tanh": 1}.get(cell, 3)])
    else:
        module = make(cell, **OPTIONS[option])
    names = [name for name, _ in module.named_parameters()]
    rows = module.num_layers * (2 if module.bidirectional else 1)
    x = torch.randn((B, T, I) if option == "batch_first" else (T, B, I), dtype=torch.float64)
    units = [module.proj_size or H, H][: 1 + (cell == "lstm")]
    states = [torch.randn(rows, B, n, dtype=torch.float64) for n in units]
    marks: dict[str, torch.Tensor] = {}
    if option == "marks":
        marks = {
            "lengths": torch.tensor([4, 0, 2]),
            "mask": torch.rand(T, B) < 0.7,
            "reset": torch.rand(T, B) < 0.3,
        }

    packed = (
        pack_padded_sequence(x, torch.tensor([2, 4, 1]), enforce_sorted=False)
        if option == "packed"
        else None
    )
    if packed is not None:
        x = packed.data  # packing itself has no forward mode

    def function(x: torch.Tensor, *rest: torch.Tensor) -> tuple[torch.Tensor, ...]:
        hx = rest[: len(states)] if cell == "lstm" else rest[0]
        weights = dict(zip(names, rest[len(states) :], strict=True))
        inputs = x if packed is None else PackedSequence(x, *packed[1:])
        torch.manual_seed(1)  # the same masks in every call
        return tuple(tensors(torch.func.functional_call(module, weights, (inputs, hx), marks)))

    values = [x, *states, *(p.detach() for p in module.parameters())]
    return function, tuple(v.clone().requires_grad_() for v in values)


@pytest.mark.parametrize(("cell", "option"), CASES)
def test_gradients_are_those_of_finite_differences(cell: str, option: str) -> None:
    function, point = problem(cell, option)
    assert gradcheck(function, point, fast_mode=True)


@pytest.mark.parametrize(("cell", "option"), TWO)
def test_second_derivatives_are_those_of_finite_differences(cell: str, option: str) -> None:
    """torch.nn on a GPU: not implemented for cuDNN's RNNs (WGAN-GP, meta-learning)."""
    function, point = problem(cell, option)
    assert gradgradcheck(function, point, fast_mode=True)


@pytest.mark.parametrize(("cell", "option"), TWO)
def test_forward_mode_is_that_of_finite_differences(cell: str, option: str) -> None:
    """torch.nn.LSTM on the CPU has no forward mode."""
    function, point = problem(cell, option)
    assert gradcheck(
        function, point, fast_mode=True, check_forward_ad=True, check_backward_ad=False
    )


@pytest.mark.parametrize(("cell", "option"), CASES)
def test_the_formula_is_the_core(cell: str, option: str) -> None:
    """Under forward mode the formula runs, outside the core: the same numbers."""
    function, point = problem(cell, option)
    expected = function(*point)
    with forward_ad.dual_level():
        results = function(*point)
    for got, want in zip(results, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("cell", "option"), CASES)
def test_the_core_computes_them(cell: str, option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients of gradients, and forward mode where no gradient is asked for: without the formula,
    the formula's numbers.
    """
    function, point = problem(cell, option)
    tangents = [torch.randn_like(p) for p in point]

    def second() -> tuple[torch.Tensor, ...]:
        value = sum(y.pow(2).sum() for y in function(*point))
        first = torch.autograd.grad(value, point, create_graph=True)
        return torch.autograd.grad(sum(g.pow(2).sum() for g in first), point)

    def forward_mode(needs_gradient: bool) -> list[torch.Tensor]:
        with forward_ad.dual_level():
            duals = [
                forward_ad.make_dual(p.detach().requires_grad_(needs_gradient), t)
                for p, t in zip(point, tangents, strict=True)
            ]
            return [forward_ad.unpack_dual(y).tangent for y in function(*duals)]

    expected = (*recomputed(second, monkeypatch), *forward_mode(True))
    with monkeypatch.context() as patch:
        patch.setattr(fastrnn.torch.formula, "layer", None)
        got = (*second(), *forward_mode(False))
    for g, e in zip(got, expected, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-9, atol=1e-11)


def recomputed(function: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """With the formula in the place of the core."""

    def backward(spec: Spec, inputs: Inputs, saved: Any, cotangents: Any, wanted: Any) -> Any:
        return fastrnn.torch.ops.recomputed_gradients(spec, inputs, cotangents, wanted)

    with monkeypatch.context() as patch:
        patch.setattr(fastrnn.torch.derivatives, "backward", backward)
        return function()


def test_an_input_that_depends_on_another_counts_once() -> None:
    """Recomputing in backward must not follow x back into the weights on its own."""
    module = make("gru")
    w = module.weight_ih_l0
    assert isinstance(w, torch.Tensor)
    x = (w[:T, None, :].expand(T, B, I) * 2).sin()
    y, _ = module(x)
    (first,) = torch.autograd.grad(y.sum(), w, retain_graph=True)
    (again,) = torch.autograd.grad(y.sum(), w, create_graph=True)
    torch.testing.assert_close(again, first)


@pytest.mark.parametrize(("cell", "option"), [c for c in TWO if c[0] == "lstm" or c[1] == "marks"])
def test_the_formula_runs_on_another_device_with_lengths_on_the_host(
    cell: str, option: str
) -> None:
    """torch refuses to mix devices, the one without memory as well."""
    seen = []

    def watched(spec: Spec, inputs: Inputs) -> tuple[torch.Tensor, ...]:
        seen.append((spec, inputs))
        return formula_layer(spec, inputs)

    with pytest.MonkeyPatch.context() as patch, forward_ad.dual_level(), torch.no_grad():
        patch.setattr(fastrnn.torch.derivatives, "forward_mode", watched)
        function, point = problem(cell, option)
        function(*(p.detach() for p in point))
    spec, inputs = seen[0]

    def elsewhere(tensor: torch.Tensor | None) -> torch.Tensor | None:
        return None if tensor is None else tensor.to("meta")

    x, weights, h0, c0, _, mask, reset, _ = inputs
    on_device = inputs._replace(
        weights=[w.to("meta") for w in weights],
        **{"x": elsewhere(x), "h0": elsewhere(h0), "c0": elsewhere(c0)},
        **{"mask": elsewhere(mask), "reset": elsewhere(reset)},
    )
    assert all(t.is_meta for t in formula_layer(spec, on_device))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_formula_computes_16_bits_in_float32(dtype: torch.dtype) -> None:
    module = make("lstm").to(dtype)
    x = torch.randn(40, B, I, dtype=dtype)
    weights = [p.detach() for p in module.parameters()]
    got = formula_layer(Spec("lstm"), Inputs(x, weights))
    wide = formula_layer(Spec("lstm"), Inputs(x.float(), [w.float() for w in weights]))
    for g, w in zip(got, wide, strict=True):
        assert torch.equal(g, w.to(dtype))


def test_a_gradient_penalty_trains() -> None:
    """WGAN-GP: the loss holds the norm of a gradient."""
    module = make("lstm")
    theirs = torch.nn.LSTM(I, H, dtype=torch.float64)
    theirs.load_state_dict(module.state_dict())
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    gradients = []
    for m in (module, theirs):
        y, _ = m(x)
        (dx,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        ((dx.norm() - 1) ** 2).backward()
        gradients.append([p.grad for p in m.parameters()])
    for got, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected)


def test_recompute_on_another_device_is_refused() -> None:
    x = torch.randn(T, B, I, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "is_cpu", property(lambda _: False), raising=False)
        with pytest.raises(NotImplementedError, match="recompute=True trains on the CPU alone"):
            kernels.forward(
                Spec("gru", recompute=True), Inputs(x, [*make("gru").parameters()]), True
            )


@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell != "rnn_relu"])
def test_third_derivatives_exist(cell: str) -> None:
    module = make(cell)
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    value = module(x)[0].pow(2).sum()
    for _ in range(3):
        (value,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    assert value.isfinite().all()
    assert value.abs().sum() > 0


def stateless(cell: str) -> tuple[Callable[..., torch.Tensor], dict[str, torch.Tensor]]:
    module = make(cell, num_layers=2)

    def loss(weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        y, _ = torch.func.functional_call(module, weights, (x,))
        return y.pow(2).sum()

    return loss, {name: p.detach() for name, p in module.named_parameters()}


@pytest.mark.parametrize("cell", CELLS)
def test_func_grad_equals_backward(cell: str) -> None:
    loss, weights = stateless(cell)
    x = torch.randn(T, B, I, dtype=torch.float64)
    got = torch.func.grad(loss)(weights, x)
    leaves = {name: w.clone().requires_grad_() for name, w in weights.items()}
    expected = torch.autograd.grad(loss(leaves, x), list(leaves.values()))
    for g, e in zip(got.values(), expected, strict=True):
        torch.testing.assert_close(g, e)


@pytest.mark.parametrize("cell", CELLS)
def test_vmap_equals_a_loop(cell: str) -> None:
    """torch.nn: "Batching rule not implemented" for all three."""
    loss, weights = stateless(cell)
    xs = torch.randn(5, T, B, I, dtype=torch.float64)
    got = torch.func.vmap(loss, in_dims=(None, 0))(weights, xs)
    torch.testing.assert_close(got, torch.stack([loss(weights, x) for x in xs]))
    module = make(cell, batch_first=True)
    unbatched = torch.randn(5, T, I, dtype=torch.float64)
    torch.testing.assert_close(
        torch.func.vmap(lambda x: module(x)[0])(unbatched), module(unbatched)[0]
    )


@pytest.mark.parametrize("cell", CELLS)
def test_per_sample_gradients_equal_a_loop(cell: str) -> None:
    loss, weights = stateless(cell)
    xs = torch.randn(5, T, 1, I, dtype=torch.float64)
    got = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, xs)
    for sample, x in enumerate(xs):
        expected = torch.func.grad(loss)(weights, x)
        for name, e in expected.items():
            torch.testing.assert_close(got[name][sample], e)


@pytest.mark.parametrize("cell", CELLS)
def test_jvp_and_jacobian_equal_those_of_backward(cell: str) -> None:
    module = make(cell)
    x = torch.randn(T, B, I, dtype=torch.float64)
    tangent = torch.randn_like(x)
    y, dy = torch.func.jvp(lambda x: module(x)[0], (x,), (tangent,))
    torch.testing.assert_close(y, module(x)[0])
    jacobian = torch.autograd.functional.jacobian(lambda x: module(x)[0], x)
    torch.testing.assert_close(dy, torch.einsum("tbhsci,sci->tbh", jacobian, tangent))
    torch.testing.assert_close(torch.func.jacfwd(lambda x: module(x)[0])(x), jacobian)


@pytest.mark.parametrize("name", ["RNNCell", "LSTMCell", "GRUCell"])
def test_cells_are_differentiable_in_every_way(name: str) -> None:
    """torch.nn.GRUCell on a GPU: "Forward AD not implemented"."""
    torch.manual_seed(0)
    cell = getattr(fastrnn.torch, name)(I, H, dtype=torch.float64)
    x = torch.randn(B, I, dtype=torch.float64, requires_grad=True)
    states = [
        torch.randn(B, H, dtype=torch.float64, requires_grad=True)
        for _ in range(1 + (name == "LSTMCell"))
    ]

    def function(x: torch.Tensor, *states: torch.Tensor) -> Any:
        return cell(x, states if name == "LSTMCell" else states[0])

    assert gradcheck(function, (x, *states), check_forward_ad=True)
    assert gradgradcheck(function, (x, *states))
    got = torch.func.vmap(function)(x, *states)
    for g, e in zip(tensors(got), tensors(function(x, *states)), strict=True):
        torch.testing.assert_close(g, e)


def test_formula_and_core_agree_under_autocast() -> None:
    inputs = Inputs(torch.randn(T, B, I), list(make("lstm").float().parameters()))
    with torch.autocast("cpu", torch.bfloat16):
        results = formula_layer(Spec("lstm"), inputs)
        expected = layer(Spec("lstm"), inputs)
    for got, want in zip(results, expected, strict=True):
        assert got.dtype is torch.float32
        torch.testing.assert_close(got, want)
