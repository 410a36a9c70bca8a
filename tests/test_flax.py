"""fastrnn.flax against flax.nnx: the same call, the same numbers."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tolerances import assert_close

pytest.importorskip("flax")
import jax
import jax.numpy as jnp
from flax import nnx

import fastrnn.flax as ff

T, I, H = 6, 3, 5
CELLS: dict[str, tuple[Any, dict[str, Any]]] = {
    "LSTMCell": (nnx.LSTMCell, {}),
    "OptimizedLSTMCell": (nnx.OptimizedLSTMCell, {}),
    "GRUCell": (nnx.GRUCell, {}),
    "SimpleCell": (nnx.SimpleCell, {"dtype": None}),
    "SimpleCell relu": (nnx.SimpleCell, {"dtype": None, "activation_fn": nnx.relu}),
    "SimpleCell residual": (nnx.SimpleCell, {"dtype": None, "residual": True}),
}


@pytest.fixture
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def make_cell(name: str, param_dtype: str = "float64", seed: int = 0, **options: Any) -> Any:
    cls, own = CELLS[name]
    bias = nnx.initializers.normal(1.0)
    return cls(
        I, H, param_dtype=param_dtype, bias_init=bias, rngs=nnx.Rngs(seed), **{**own, **options}
    )


def make_inputs(batch: tuple[int, ...], time_major: bool, dtype: str = "float64") -> Any:
    shape = (T, *batch, I) if time_major else (*batch, T, I)
    return jax.random.normal(jax.random.key(7), shape, dtype)


def make_carry(cell: Any, batch: tuple[int, ...], dtype: str = "float64") -> Any:
    keys = jax.random.split(jax.random.key(8))
    c, h = (jax.random.normal(key, (*batch, H), dtype) for key in keys)
    return (c, h) if "LSTM" in type(cell).__name__ else h


def assert_trees_close(actual: Any, expected: Any, dtype: str, kind: str) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == e.dtype
        assert_close(np.asarray(a), np.asarray(e), dtype, kind)


def weighted(tree: Any) -> Any:
    return sum(
        jnp.sum(jnp.cos(jnp.arange(a.size).reshape(a.shape) + k) * a)
        for k, a in enumerate(jax.tree.leaves(tree))
    )


FLAGS = ("time_major", "reverse", "keep_order", "return_carry", "initial_carry", "seq_lengths")
# every cell with every option, and a sample of the rest: compiling is what takes the time
_ALL = list(itertools.product(CELLS, itertools.product([False, True], repeat=len(FLAGS))))
COMBINATIONS = [c for c in _ALL if all(c[1])]
COMBINATIONS += random.Random(0).sample([c for c in _ALL if c not in COMBINATIONS], 8)


@pytest.mark.parametrize(
    ("name", "flags"),
    COMBINATIONS,
    ids=lambda v: v if isinstance(v, str) else "+".join(itertools.compress(FLAGS, v)) or "plain",
)
def test_results_and_gradients_equal_those_of_nnx(
    name: str, flags: tuple[bool, ...], x64: None
) -> None:
    on = dict(zip(FLAGS, flags, strict=True))
    cell, batch = make_cell(name), (4,)
    x = make_inputs(batch, on["time_major"])
    call: dict[str, Any] = {}
    if on.pop("seq_lengths"):
        call["seq_lengths"] = jnp.array([6, 1, 3, 5])
    carry = make_carry(cell, batch) if on.pop("initial_carry") else None

    def run(cls: Any) -> Any:
        def loss(parameters: Any, x: Any, carry: Any) -> Any:
            rnn = cls(nnx.merge(graph, parameters), **on)
            results = rnn(x, initial_carry=carry, **call)
            return weighted(results), results

        return jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(parameters, x, carry)

    graph, parameters = nnx.split(cell)
    (ours, our_results), (theirs, their_results) = run(ff.RNN), run(nnx.RNN)
    assert_trees_close(our_results, their_results, "float64", "forward")
    assert_trees_close(ours, theirs, "float64", "gradient")


@pytest.mark.parametrize("name", ["GRUCell"])
def test_options_of_the_call_go_before_those_of_the_module(name: str, x64: None) -> None:
    cell, x = make_cell(name), make_inputs((2,), True)
    own = {"time_major": False, "reverse": False, "keep_order": True, "return_carry": False}
    call = {option: not value for option, value in own.items()}
    ours, theirs = (cls(cell, **own)(x, **call) for cls in (ff.RNN, nnx.RNN))
    assert_trees_close(ours, theirs, "float64", "forward")


@pytest.mark.parametrize("batch", [(), (0,), (2, 3)])
def test_any_number_of_batch_axes(batch: tuple[int, ...], x64: None) -> None:
    cell = make_cell("OptimizedLSTMCell")
    for time_major in (False, True):
        x = make_inputs(batch, time_major)
        ours, theirs = (
            cls(cell, time_major=time_major, reverse=True, return_carry=True)(x)
            for cls in (ff.RNN, nnx.RNN)
        )
        assert_trees_close(ours, theirs, "float64", "forward")


@pytest.mark.parametrize("merge", [None, jnp.add])
@pytest.mark.parametrize("lengths", [None, [6, 1, 3, 5]])
def test_bidirectional_equals_that_of_nnx(merge: Any, lengths: Any, x64: None) -> None:
    cells = [make_cell("GRUCell", seed=seed) for seed in (0, 1)]
    x = make_inputs((4,), False)
    call = {} if lengths is None else {"seq_lengths": jnp.array(lengths)}
    options = {"return_carry": True} | ({} if merge is None else {"merge_fn": merge})
    ours, theirs = (
        of.Bidirectional(*(of.RNN(cell) for cell in cells), **options)(x, **call)
        for of in (ff, nnx)
    )
    assert_trees_close(ours, theirs, "float64", "forward")


@pytest.mark.parametrize(
    ("param_dtype", "dtype"),  # nnx's scan refuses bfloat16 parameters computed in float32
    [("bfloat16", None), ("bfloat16", "bfloat16"), ("float32", None), ("float32", "bfloat16")],
)
def test_dtypes_are_those_of_nnx(param_dtype: str, dtype: str | None) -> None:
    cell = make_cell("LSTMCell", param_dtype, dtype=dtype)
    x = make_inputs((2,), False, "bfloat16")
    ours, theirs = (cls(cell, return_carry=True)(x) for cls in (ff.RNN, nnx.RNN))
    for a, e in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == e.dtype
        # ours computes in float32 what nnx rounds to bfloat16 at every step
        assert np.allclose(np.asarray(a, "float32"), np.asarray(e, "float32"), atol=0.05)


def test_kernels_compute_unless_scan_is_asked_for() -> None:
    for name in ("LSTMCell", "SimpleCell residual"):
        graph, parameters = nnx.split(make_cell(name, "float32"))
        x = make_inputs((2,), False, "float32")

        def loss(parameters: Any, backend: Any, graph: Any = graph, x: Any = x) -> Any:
            return ff.RNN(nnx.merge(graph, parameters), backend=backend)(x).sum()

        ours, theirs = (
            jax.jit(jax.grad(loss), static_argnums=1).lower(parameters, backend).as_text()
            for backend in (None, "scan")
        )
        assert "@fastrnn_backward(" in ours
        assert "stablehlo.while" not in ours
        assert "fastrnn_" not in theirs
        assert "stablehlo.while" in theirs


def test_scan_gives_the_same_numbers_and_forward_mode(x64: None) -> None:
    cell, x = make_cell("GRUCell"), make_inputs((2,), False)
    graph, parameters = nnx.split(cell)
    v, w = jnp.cos(x), jnp.sin(jnp.arange(2 * T * H)).reshape(2, T, H)

    def along(backend: Any) -> Any:
        def run(parameters: Any, x: Any) -> Any:
            return ff.RNN(nnx.merge(graph, parameters), backend=backend)(x)

        return jax.jvp(run, (parameters, x), (jax.tree.map(jnp.cos, parameters), v))

    ours, theirs = along(None), along("scan")
    assert_trees_close(ours, theirs, "float64", "gradient")
    _, tangent = jax.jvp(ff.RNN(cell), (x,), (v,))
    _, back = jax.vjp(ff.RNN(cell), x)
    ours, theirs = jnp.sum(tangent * w), jnp.sum(v * back(w)[0])
    assert_close(np.asarray(ours), np.asarray(theirs), "float64", "gradient")


def test_kernels_of_nnx_are_read_as_they_lie() -> None:
    """XLA transposes no weight before the kernel."""
    graph, parameters = nnx.split(ff.RNN(make_cell("OptimizedLSTMCell", "float32")))
    x = make_inputs((2,), False, "float32")
    run = jax.jit(lambda p, x: nnx.merge(graph, p)(x))
    text = run.lower(parameters, x).compile().as_text()
    assert "fastrnn_forward" in text
    assert " transpose(" not in text
    assert " copy(" not in text


def test_nnx_jit_grad_and_vmap(x64: None) -> None:
    x = make_inputs((4,), False)
    of = {cls: cls(make_cell("GRUCell")) for cls in (ff.RNN, nnx.RNN)}
    ours, theirs = (nnx.jit(lambda m, x: m(x))(rnn, x) for rnn in of.values())
    assert_trees_close(ours, theirs, "float64", "forward")
    ours, theirs = (
        nnx.state(nnx.grad(lambda m: weighted(m(x)))(rnn), nnx.Param) for rnn in of.values()
    )
    assert_trees_close(ours, theirs, "float64", "gradient")
    rows = nnx.vmap(lambda m, row: m(row), in_axes=(None, 0))(of[ff.RNN], x)
    assert_close(np.asarray(rows), np.asarray(of[ff.RNN](x)), "float64", "forward")


def test_state_of_either_fits_the_other(x64: None) -> None:
    for name in ("LSTMCell", "SimpleCell"):
        ours, theirs = ff.RNN(make_cell(name, seed=1)), nnx.RNN(make_cell(name, seed=2))
        x = make_inputs((2,), False)
        assert jax.tree.structure(nnx.to_pure_dict(nnx.state(ours))) == jax.tree.structure(
            nnx.to_pure_dict(nnx.state(theirs))
        )
        nnx.update(ours, nnx.state(theirs, nnx.Param))
        assert_trees_close(ours(x), theirs(x), "float64", "forward")
        nnx.update(theirs, nnx.state(ff.RNN(make_cell(name, seed=3)), nnx.Param))
        assert not np.allclose(ours(x), theirs(x))


def test_replace_keeps_the_parameters_and_says_what_it_left(x64: None) -> None:
    class Own(nnx.RNN):
        pass

    model = nnx.Sequential(
        nnx.Bidirectional(nnx.RNN(make_cell("GRUCell")), nnx.RNN(make_cell("GRUCell", seed=1))),
        nnx.RNN(nnx.GRUCell(2 * H, H, param_dtype="float64", rngs=nnx.Rngs(2)), reverse=True),
        nnx.RNN(nnx.SimpleCell(H, H, activation_fn=jnp.sin, rngs=nnx.Rngs(3))),
        Own(nnx.GRUCell(H, H, rngs=nnx.Rngs(4))),
    )
    x = make_inputs((2,), False)
    expected, before = model(x), nnx.state(model, nnx.Param)
    done = ff.replace(model)
    assert done.replaced == [
        "layers.0.backward_rnn", "layers.0.forward_rnn", "layers.1"
    ]  # fmt: skip
    assert set(done.left) == {"layers.2", "layers.3"}
    assert "activation_fn" in done.left["layers.2"]
    assert "subclass" in done.left["layers.3"]
    assert jax.tree.all(jax.tree.map(np.array_equal, nnx.state(model, nnx.Param), before))
    assert_close(np.asarray(model(x)), np.asarray(expected), "float32", "forward")
    assert ff.replace(model).replaced == []


def test_carry_init_is_used(x64: None) -> None:
    with pytest.warns(UserWarning, match="carry_init"):
        cell = make_cell("LSTMCell", carry_init=nnx.initializers.ones)
    x = make_inputs((2,), False)
    assert_trees_close(ff.RNN(cell)(x), nnx.RNN(cell)(x), "float64", "forward")


def test_a_row_of_length_0_keeps_its_carry(x64: None) -> None:
    cell, x = make_cell("LSTMCell"), make_inputs((2,), False)
    carry = make_carry(cell, (2,))
    found, _ = ff.RNN(cell, return_carry=True)(
        x, initial_carry=carry, seq_lengths=jnp.array([0, 6])
    )
    for now, before in zip(found, carry, strict=True):
        np.testing.assert_array_equal(now[0], before[0])


def test_plain_names_are_the_cells() -> None:
    assert (ff.LSTM, ff.GRU, ff.SimpleRNN) == (nnx.OptimizedLSTMCell, nnx.GRUCell, nnx.SimpleCell)


def test_training_lowers_the_loss() -> None:
    optax = pytest.importorskip("optax")
    model = nnx.Sequential(ff.RNN(make_cell("OptimizedLSTMCell", "float32")))
    optimizer = nnx.Optimizer(model, optax.adam(0.02), wrt=nnx.Param)
    x = make_inputs((4,), False, "float32")
    target = jnp.sin(jnp.arange(4 * T * H).reshape(4, T, H) / 10)

    @nnx.jit
    def step(model: Any, optimizer: Any) -> Any:
        loss, gradients = nnx.value_and_grad(lambda m: jnp.mean((m(x) - target) ** 2))(model)
        optimizer.update(model, gradients)
        return loss

    losses = [float(step(model, optimizer)) for _ in range(40)]
    assert losses[-1] < 0.8 * losses[0]


def bad_cells() -> list[tuple[Any, type[Exception], str]]:
    low_rank = make_cell("GRUCell", "float32")
    low_rank.dense_i = nnx.LoRALinear(I, 3 * H, lora_rank=1, rngs=nnx.Rngs(0))
    return [
        (nnx.Linear(1, 1, rngs=nnx.Rngs(0)), TypeError, "argument 'cell' must be an LSTMCell"),
        (low_rank, TypeError, "dense_i of the cell must be a flax.nnx.Linear, got LoRALinear"),
        (
            make_cell("LSTMCell", "float32", gate_fn=jax.nn.hard_sigmoid),
            ValueError,
            "gate_fn of the LSTMCell must be sigmoid, got hard_sigmoid",
        ),
        (
            make_cell("GRUCell", "float32", activation_fn=jnp.sin),
            ValueError,
            "activation_fn of the GRUCell must be tanh",
        ),
        (
            make_cell("SimpleCell", "float32", activation_fn=jnp.sin),
            ValueError,
            "activation_fn of the SimpleCell must be tanh or relu",
        ),
        (
            make_cell("SimpleCell", "float32", promote_dtype=lambda args, dtype: args),
            ValueError,
            "promote_dtype of the cell must be flax's own",
        ),
    ]


@pytest.mark.parametrize("index", range(6))
def test_a_cell_that_cannot_be_fused_is_refused(index: int) -> None:
    cell, error, message = bad_cells()[index]
    with pytest.raises(error, match=message):
        ff.RNN(cell)


BAD_CALLS: list[tuple[dict[str, Any], type[Exception], str]] = [
    (
        {"inputs": jnp.ones((2, T, I + 1))},
        ValueError,
        r"'inputs' must have shape \(\*batch, T, I\)",
    ),
    ({"inputs": jnp.ones(I)}, ValueError, "argument 'inputs' must have shape"),
    (
        {"initial_carry": jnp.ones((2, H))},
        TypeError,
        r"'initial_carry' of an LSTM must be \(c, h\)",
    ),
    ({"initial_carry": (jnp.ones((2, H)), jnp.ones((1, H)))}, ValueError, "'initial_carry' must"),
    ({"seq_lengths": jnp.ones(2)}, TypeError, "'seq_lengths' must be of an integer dtype"),
    ({"seq_lengths": jnp.ones(3, int)}, ValueError, r"'seq_lengths' must have shape \(\*batch,\)"),
    ({"inputs": jnp.ones((2, T, I), complex)}, TypeError, "must be of a real float dtype"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_CALLS)
def test_bad_calls_are_refused(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    rnn = ff.RNN(make_cell("LSTMCell", "float32"), return_carry=True)
    with pytest.raises(error, match=message):
        rnn(**{"inputs": jnp.ones((2, T, I)), **arguments})


def test_bad_options_are_refused() -> None:
    cell = make_cell("LSTMCell", "float32")
    for options in ({"state_axes": {...: 0}}, {"broadcast_rngs": ...}, {"backend": "cuda"}):
        with pytest.raises(ValueError, match=f"argument '{next(iter(options))}' must be None"):
            ff.RNN(cell, **options)
    with pytest.raises(TypeError, match="argument 'backward_rnn' must be a fastrnn"):
        ff.Bidirectional(ff.RNN(cell), nnx.RNN(cell))
