"""What traces the modules (compile, export, opcheck), and derivatives beyond the first."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from tolerances import assert_close
from torch.export import Dim
from torch.nn.utils.rnn import pack_padded_sequence

import fastrnn.torch
from fastrnn.torch.spec import Inputs, Spec, as_text, kind_of

CLASSES = ("RNN", "LSTM", "GRU")
CELLS = ("rnn_tanh", "rnn_relu", "lstm", "lstm projected", "gru", "gru_reset_before")
T, B, I, H = 5, 3, 4, 6


def problem(cell: str, bidirectional: bool, marked: bool, **options: Any) -> tuple[Spec, Inputs]:
    torch.manual_seed(0)
    cell, *projected = cell.split()
    D, P, sizes = 1 + bidirectional, 2 if projected else H, (I, H)
    kind = kind_of(cell, options, proj_size=len(projected) * P, sizes=sizes, directions=D)

    def new(*shape: int) -> torch.Tensor:
        return (0.5 * torch.randn(shape, dtype=torch.float64)).requires_grad_()

    spec = Spec(cell, False, bidirectional, as_text(options))
    return spec, Inputs(
        new(T, B, I),
        [new(*shape) for _, shape in kind.shapes()],
        new(D, B, P),
        new(D, B, H) if cell.startswith("lstm") else None,
        torch.tensor([T, 0, 2]) if marked else None,
        torch.rand(T, B) > 0.3 if marked else None,
        torch.rand(T, B) > 0.8 if marked else None,
        torch.tensor(7) if kind.draws else None,
    )


@pytest.mark.parametrize("marked", [False, True], ids=["plain", "marks"])
@pytest.mark.parametrize("cell", CELLS)
def test_the_operator_passes_opcheck(cell: str, marked: bool) -> None:
    spec, inputs = problem(cell, True, marked)
    torch.library.opcheck(torch.ops.fastrnn.layer.default, (*spec, *inputs, True))


@pytest.mark.parametrize(
    ("cell", "options"),
    [
        ("lstm", {"peephole": True, "layer_norm": "state", "recurrent_dropout": 0.3}),
        ("lstm_coupled", {"coupled": True, "cell_clip": 0.5, "zoneout": 0.3}),
        ("gru", {"layer_norm": "output", "weight_dropout": 0.3}),
        ("rnn_tanh", {"activations": ["softsign"], "clip": 0.7}),
    ],
    ids=str,
)
def test_the_operator_with_options_passes_opcheck(cell: str, options: dict[str, Any]) -> None:
    spec, inputs = problem(cell, True, True, **options)
    torch.library.opcheck(torch.ops.fastrnn.layer.default, (*spec, *inputs, True))


@pytest.mark.parametrize("name", CLASSES)
def test_compile_breaks_no_graph_and_compiles_nothing_anew_for_another_T_or_B(name: str) -> None:
    torch._dynamo.reset()
    module = getattr(fastrnn.torch, name)(I, H, 2, bidirectional=True, dtype=torch.float64)
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend=backend)
    counts = []
    for steps, rows in ((T, B), (9, 2), (2, 7)):
        x = torch.randn(steps, rows, I, dtype=torch.float64)
        gradients = []
        for f in (module, compiled):
            y = f(x)[0]
            gradients.append([y, *torch.autograd.grad(y.square().sum(), list(module.parameters()))])
        for expected, got in zip(*gradients, strict=True):
            assert_close(got.detach(), expected.detach(), "float64", "gradient", steps)
        counts.append(len(graphs))
    assert counts[0] > 0
    assert counts == counts[:1] * 3


@pytest.mark.parametrize(
    "case", ["sorted", "unsorted", "lengths", "LSTMCell", "GRUCell", "RNNCell"]
)
def test_compile_takes_packed_sequences_and_cells(case: str) -> None:
    torch._dynamo.reset()
    is_cell = case.endswith("Cell")
    module = getattr(fastrnn.torch, case if is_cell else "GRU")(I, H, dtype=torch.float64)
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    x = torch.randn(T, B, I, dtype=torch.float64)
    lengths = torch.tensor([T, 4, 2] if case == "sorted" else [2, T, 4])
    marks = {"lengths": lengths} if case == "lengths" else {}
    inputs: Any = x[0] if is_cell else x
    if case.endswith("sorted"):
        inputs = pack_padded_sequence(x, lengths, enforce_sorted=case == "sorted")
    gradients = []
    for f in (module, compiled):
        result = f(inputs, **marks)
        y = result if isinstance(result, torch.Tensor) else result[0]
        y = y.data if case.endswith("sorted") else y
        gradients.append([y, *torch.autograd.grad(y.square().sum(), list(module.parameters()))])
    for expected, got in zip(*gradients, strict=True):
        assert_close(got.detach(), expected.detach(), "float64", "gradient", T)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", ["LSTM", "GRUCell"])
def test_compile_takes_a_call_without_gradients(name: str, mode: Any) -> None:
    torch._dynamo.reset()
    module = getattr(fastrnn.torch, name)(I, H)
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    x = torch.randn(T, I)
    with mode():
        for expected, got in zip(module(x), compiled(x), strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_torch_fx_sees_a_module_as_one_node_as_it_does_those_of_torch() -> None:
    class Model(torch.nn.Module):
        def __init__(self, namespace: Any) -> None:
            super().__init__()
            self.rnn, self.cell = namespace.GRU(I, H), namespace.LSTMCell(H, H)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y, h_n = self.rnn(x)
            h, c = self.cell(y[0], (y[1], h_n[0]))
            return self.cell(h, (h, c))[0]

    ours, theirs = (torch.fx.symbolic_trace(Model(n)) for n in (fastrnn.torch, torch.nn))
    nodes = [[(node.op, str(node.target)) for node in g.graph.nodes] for g in (ours, theirs)]
    assert nodes[0] == nodes[1]
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(T, B, I)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.filterwarnings(
    "ignore:.torch.jit.*:DeprecationWarning", "ignore::torch.jit.TracerWarning"
)
@pytest.mark.parametrize("name", [*CLASSES, "LSTMCell"])
def test_a_traced_module_takes_another_T_and_B(name: str) -> None:
    module = getattr(fastrnn.torch, name)(I, H)
    shapes = ((B, I), (7, I)) if name == "LSTMCell" else ((T, B, I), (9, 2, I))
    traced = torch.jit.trace(module, (torch.randn(shapes[0]),))
    x = torch.randn(shapes[1])
    assert torch.equal(traced(x)[0], module(x)[0])


@pytest.mark.parametrize("name", CLASSES)
def test_export_takes_lengths_that_are_not_known_then(name: str) -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = getattr(fastrnn.torch, name)(I, H, bidirectional=True)

        def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.layers(x, lengths=lengths)[0]
            return y

    module = Model()
    rows = Dim("B", max=64)
    program = torch.export.export(
        module,
        (torch.randn(T, B, I), torch.tensor([2, T, 0])),
        dynamic_shapes=({0: Dim("T", max=64), 1: rows}, {0: rows}),
    )
    x, lengths = torch.randn(9, 4, I), torch.tensor([0, 9, 3, 1])
    assert torch.equal(program.module()(x, lengths), module(x, lengths))


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "not_strict"])
@pytest.mark.parametrize("name", CLASSES)
def test_export_with_dynamic_T_and_B_is_saved_and_loaded(name: str, strict: bool) -> None:
    module = getattr(fastrnn.torch, name)(I, H, 2, batch_first=True).eval()
    program = torch.export.export(
        module,
        (torch.randn(B, T, I),),
        dynamic_shapes=({0: Dim("B", max=64), 1: Dim("T", max=64)},),
        strict=strict,
    )
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    x = torch.randn(7, 11, I)
    assert torch.equal(loaded(x)[0], module(x)[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", CLASSES)
def test_autocast_returns_its_dtype_and_computes_in_float32(name: str, dtype: torch.dtype) -> None:
    module = getattr(fastrnn.torch, name)(I, H, 2)
    x = torch.randn(T, B, I)
    with torch.autocast("cpu", dtype):
        y = module(x)[0]
    assert y.dtype is dtype
    assert torch.equal(y, module(x)[0].to(dtype))
    y.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype is torch.float32 for p in module.parameters())


@pytest.mark.parametrize("marked", [False, True], ids=["plain", "marks"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one_way", "two_ways"])
@pytest.mark.parametrize("cell", CELLS)
def test_first_and_second_derivatives_pass_gradcheck(
    cell: str, bidirectional: bool, marked: bool
) -> None:
    spec, inputs = problem(cell, bidirectional, marked)
    states = [s for s in (inputs.h0, inputs.c0) if s is not None]

    def run(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x, *rest = tensors
        h0, c0 = (*rest[: len(states)], None)[:2]
        given = inputs._replace(x=x, weights=rest[len(states) :], h0=h0, c0=c0)
        return fastrnn.torch.layer.layer(spec, given)

    point = (inputs.x, *states, *inputs.weights)
    assert torch.autograd.gradcheck(run, point, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, point, fast_mode=True)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", CLASSES)
def test_forward_mode_agrees_with_reverse_mode(name: str) -> None:
    module = getattr(fastrnn.torch, name)(I, H, dtype=torch.float64)
    x, tangent = torch.randn(2, T, B, I, dtype=torch.float64)
    cotangent = torch.randn(T, B, H, dtype=torch.float64)
    _, jvp = torch.func.jvp(lambda x: module(x)[0], (x,), (tangent,))
    x.requires_grad_()
    (vjp,) = torch.autograd.grad(module(x)[0], x, cotangent)
    assert_close((jvp * cotangent).sum().detach(), (vjp * tangent).sum(), "float64", "gradient", T)


@pytest.mark.parametrize("name", CLASSES)
def test_per_sample_gradients_by_vmap_are_those_of_each_sample_alone(name: str) -> None:
    module = getattr(fastrnn.torch, name)(I, H, dtype=torch.float64)
    parameters = {key: p.detach() for key, p in module.named_parameters()}
    samples = torch.randn(B, T, I, dtype=torch.float64)

    def loss(parameters: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        y, _ = torch.func.functional_call(module, parameters, (x.unsqueeze(1),))
        return y.square().sum()

    together = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, samples)
    for b, x in enumerate(samples):
        alone = torch.autograd.grad(module(x)[0].square().sum(), list(module.parameters()))
        for key, expected in zip(parameters, alone, strict=True):
            assert_close(together[key][b], expected, "float64", "gradient", T, name=key)
