"""fastrnn.jax against its oracles: the float64 reference, and lax.scan under JAX's own autodiff."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from tolerances import assert_close

jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402

import fastrnn.jax as fj  # noqa: E402
from fastrnn import _core, reference  # noqa: E402
from fastrnn.jax.kernels import BIDIRECTIONAL  # noqa: E402

CELLS = {
    "lstm": (fj.lstm, {}),
    "gru": (fj.gru, {}),
    "gru_reset_before": (fj.gru, {"reset_after": False}),
    "rnn_tanh": (fj.rnn, {}),
    "rnn_relu": (fj.rnn, {"nonlinearity": "relu"}),
}
T, B, I, H = 7, 4, 3, 6


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> Iterator[str]:
    with jax.enable_x64(request.param == "float64"):
        yield request.param


@pytest.fixture
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def problem(
    cell: str, dtype: str, layers: int = 1, bidirectional: bool = False, state: bool = True
) -> tuple[dict[str, Any], Any, Any]:
    keys = jax.random.split(jax.random.key(len(cell)), 4)
    name = cell.split("_")[0]
    params = fj.init(keys[0], name, I, H, layers, bidirectional=bidirectional, dtype=dtype)
    x = jax.random.normal(keys[1], (T, B, I), dtype)
    shape = (layers * (1 + bidirectional), B, H)
    h0, c0 = (jax.random.normal(k, shape, dtype) for k in keys[2:])
    return params, x, None if not state else (h0, c0) if cell == "lstm" else h0


def marks(which: str) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    found: dict[str, Any] = {}
    if "lengths" in which:
        found["lengths"] = jnp.array([7, 0, 3, 5], jnp.int32)
    if "mask" in which:
        found["mask"] = jnp.asarray(rng.random((T, B)) < 0.7)
    if "reset" in which:
        found["reset"] = jnp.asarray(rng.random((T, B)) < 0.2)
    return found


MARKS = ["none", "lengths", "lengths mask reset"]  # compiling is what takes the time


def weighted(tree: Any) -> Any:
    """One number of all results, with other weights for each."""
    leaves = jax.tree.leaves(tree)
    return sum(
        jnp.sum(jnp.cos(jnp.arange(a.size).reshape(a.shape) + k) * a) for k, a in enumerate(leaves)
    )


def assert_trees_close(actual: Any, expected: Any, dtype: str, kind: str) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == e.dtype
        assert_close(np.asarray(a), np.asarray(e), dtype, kind)


@pytest.mark.parametrize("which", MARKS)
@pytest.mark.parametrize("cell", CELLS)
def test_both_directions_equal_the_float64_reference(cell: str, which: str, dtype: str) -> None:
    function, options = CELLS[cell]
    params, x, state = problem(cell, dtype, bidirectional=True)
    y, final = function(params, x, state, **marks(which), **options)
    forward = getattr(reference, cell.split("_")[0] + "_forward")
    own = {n: np.asarray(m) for n, m in marks(which).items()}
    for d, suffix in enumerate(("_l0", "_l0_reverse")):
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        weights = [np.asarray(params[n + suffix], np.float64) for n in names]
        states = {
            n: np.asarray(s[d]) for n, s in zip(("h0", "c0"), jax.tree.leaves(state), strict=False)
        }
        states = {n: s.astype(np.float64) for n, s in states.items()}
        y_, final_, _ = forward(
            np.asarray(x, np.float64), *weights, reverse=d == 1, **states, **own, **options
        )
        assert_close(np.asarray(y[..., d * H : (d + 1) * H]), y_, dtype, "forward")
        for a, e in zip(jax.tree.leaves(final), jax.tree.leaves(final_), strict=True):
            assert_close(np.asarray(a[d]), e, dtype, "forward")


@pytest.mark.parametrize(
    ("cell", "which", "batch_first"),
    [
        *((cell, which, False) for cell in ("lstm", "gru") for which in MARKS),
        *((cell, MARKS[-1], False) for cell in ("gru_reset_before", "rnn_tanh", "rnn_relu")),
        ("lstm", MARKS[-1], True),
    ],
)
def test_a_bidirectional_stack_and_its_gradients_equal_those_of_lax_scan(
    cell: str, which: str, batch_first: bool, x64: None
) -> None:
    dtype = "float64"
    function, options = CELLS[cell]
    params, x, state = problem(cell, dtype, layers=2, bidirectional=True)
    own = marks(which)
    if batch_first:
        x = x.swapaxes(0, 1)
        own = {n: m if n == "lengths" else m.T for n, m in own.items()}

    def run(backend: Any, *arguments: Any) -> Any:
        return function(*arguments, **own, **options, batch_first=batch_first, backend=backend)

    ours, theirs = (run(backend, params, x, state) for backend in (None, "scan"))
    assert_trees_close(ours, theirs, dtype, "forward")
    ours, theirs = (
        jax.grad(lambda *a, backend=backend: weighted(run(backend, *a)), (0, 1, 2))(
            params, x, state
        )
        for backend in (None, "scan")
    )
    assert_trees_close(ours, theirs, dtype, "gradient")


def tangents_of(arguments: Any) -> Any:
    return jax.tree.map(lambda a: jnp.sin(jnp.arange(a.size)).reshape(a.shape), arguments)


def derivatives(run: Any, arguments: Any) -> dict[str, Any]:
    """First and second derivatives of ``run`` with regard to its three arguments, by each mode."""
    t = tangents_of(arguments)

    def loss(*arguments: Any) -> Any:
        return sum(jnp.sum(r**3) for r in jax.tree.leaves(run(*arguments)))

    gradient = jax.grad(loss, (0, 1, 2))

    def penalty(*arguments: Any) -> Any:
        return sum(jnp.sum(g**2) for g in jax.tree.leaves(gradient(*arguments)))

    return {
        "forward": jax.jvp(run, arguments, t),
        "forward over backward": jax.jvp(gradient, arguments, t)[1],
        "backward over backward": jax.grad(penalty, (0, 1, 2))(*arguments),
    }


@pytest.mark.parametrize("cell", CELLS)
def test_forward_mode_and_second_derivatives_equal_those_of_lax_scan(cell: str, x64: None) -> None:
    function, options = CELLS[cell]
    arguments = problem(cell, "float64", bidirectional=cell == "lstm")

    def run(backend: Any, *arguments: Any) -> Any:
        return function(*arguments, backend=backend, **options, **marks("lengths mask reset"))

    def compiled(backend: Any) -> Any:
        return jax.jit(lambda *a: derivatives(partial(run, backend), a)).lower(*arguments)

    ours = compiled(None)
    assert "stablehlo.while" not in ours.as_text()
    for name in ("jvp", "backward", "backward_jvp"):
        assert f"@fastrnn_{name}(" in ours.as_text()
    results = [lowered.compile()(*arguments) for lowered in (ours, compiled("scan"))]
    assert_trees_close(*results, "float64", "gradient")


def test_third_derivatives_and_backward_over_forward_come_by_the_formula(x64: None) -> None:
    params, x, state = problem("lstm", "float64")

    def of(backend: Any) -> Any:
        def loss(x: Any) -> Any:
            return jnp.sum(fj.lstm(params, x, state, backend=backend)[0] ** 3)

        def along(x: Any) -> Any:
            return jax.jvp(loss, (x,), (jnp.ones_like(x),))[1]

        def hvp(x: Any) -> Any:
            return jax.jvp(jax.grad(loss), (x,), (jnp.ones_like(x),))[1]

        third = jax.grad(lambda x: jnp.sum(hvp(x) ** 2))
        return jax.jit(lambda x: (jax.grad(along)(x), third(x)))(x)

    assert_trees_close(of(None), of("scan"), "float64", "gradient")


def test_a_hessian_maps_second_derivatives_over_directions(x64: None) -> None:
    params, x, _ = problem("gru", "float64")

    def loss(backend: Any, row: Any) -> Any:
        return jnp.sum(fj.gru(params, x + row, backend=backend)[0] ** 3)

    row = jnp.arange(3.0)
    ours, theirs = (jax.jit(jax.hessian(partial(loss, b)))(row) for b in (None, "scan"))
    assert_close(np.asarray(ours), np.asarray(theirs), "float64", "gradient")
    assert_close(np.asarray(ours), np.asarray(ours).T, "float64", "gradient")


@pytest.mark.parametrize(
    ("cell", "batch_first", "mapped"),
    [
        ("lstm", False, "x"),
        ("lstm", True, "x and state"),
        ("gru", False, "state"),
        ("gru", True, "params"),
        ("lstm", False, "all"),
    ],
)
def test_vmap_equals_a_loop(cell: str, batch_first: bool, mapped: str, x64: None) -> None:
    function, options = CELLS[cell]
    params, x, state = problem(cell, "float64", layers=2)
    x = x.swapaxes(0, 1) if batch_first else x
    many = [jax.tree.map(lambda a: jnp.stack([a, 2 * a, -a]), a) for a in (params, x, state)]
    chosen = [
        mapped in ("params", "all"),
        "x" in mapped or mapped == "all",
        "state" in mapped or mapped == "all",
    ]
    arguments = [m if c else a for m, a, c in zip(many, (params, x, state), chosen, strict=True)]

    def run(*arguments: Any) -> Any:
        return function(
            *arguments, lengths=jnp.array([7, 0, 3, 5]), batch_first=batch_first, **options
        )

    def loop(of: Any) -> Any:
        each = [
            of(
                *(
                    jax.tree.map(lambda a, k=k: a[k], a) if c else a
                    for a, c in zip(arguments, chosen, strict=True)
                )
            )
            for k in range(3)
        ]
        return jax.tree.map(lambda *a: jnp.stack(a), *each)

    axes = [0 if c else None for c in chosen]
    assert_trees_close(jax.vmap(run, axes)(*arguments), loop(run), "float64", "forward")
    grad = jax.grad(lambda *a: weighted(run(*a)), (0, 1, 2))
    assert_trees_close(jax.vmap(grad, axes)(*arguments), loop(grad), "float64", "gradient")


def test_vmap_over_x_makes_rows_and_no_loop() -> None:
    params, x, _ = problem("lstm", "float32")
    text = str(jax.make_jaxpr(jax.vmap(partial(fj.lstm, params)))(jnp.stack([x, x])))
    assert "fastrnn_forward" in text
    assert "scan" not in text
    assert "while" not in text


def test_nested_vmap_equals_the_batch(x64: None) -> None:
    params, x, _ = problem("gru", "float64")
    cube = jnp.stack([x, x + 1])
    inner = jax.vmap(lambda row: fj.gru(params, row)[0], in_axes=1, out_axes=1)
    expected = jnp.stack([fj.gru(params, one)[0] for one in cube])
    assert_close(np.asarray(jax.vmap(inner)(cube)), np.asarray(expected), "float64", "forward")


def test_scan_around_it_carries_the_state(x64: None) -> None:
    params, x, state = problem("lstm", "float64", layers=2)

    def step(state: Any, x_t: Any) -> Any:
        y, state = fj.lstm(params, x_t[None], state)
        return state, y[0]

    final, y = jax.jit(lambda: jax.lax.scan(step, state, x))()
    assert_trees_close((y, final), fj.lstm(params, x, state), "float64", "forward")


def test_kernels_compute_unless_scan_is_asked_for() -> None:
    params, x, _ = problem("lstm", "float32")
    loss = jax.grad(lambda p, backend: fj.lstm(p, x, backend=backend)[0].sum())
    ours, theirs = (
        jax.jit(partial(loss, backend=b)).lower(params).as_text() for b in (None, "scan")
    )
    assert "@fastrnn_forward(" in ours
    assert "@fastrnn_backward(" in ours
    assert "stablehlo.while" not in ours
    assert "fastrnn" not in theirs
    assert "stablehlo.while" in theirs


@pytest.mark.parametrize("half", ["bfloat16", "float16"])
def test_half_precision_is_float32_on_rounded_values(half: str) -> None:
    params, x, state = jax.tree.map(lambda a: a.astype(half), problem("lstm", "float32", 2))
    wide = jax.tree.map(lambda a: a.astype("float32"), (params, x, state))
    ours, theirs = fj.lstm(params, x, state), fj.lstm(*wide)
    for a, e in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == half
        np.testing.assert_array_equal(a, e.astype(half))
    gradient = jax.grad(lambda x: fj.lstm(params, x, state)[0].astype("float32").sum())(x)
    assert gradient.dtype == half
    assert fj.lstm(wide[0], x)[0].dtype == "float32"


def test_one_sequence_without_a_batch_is_a_row(dtype: str) -> None:
    params, x, state = problem("lstm", dtype, 2)
    own = marks("lengths mask reset")
    y, final = fj.lstm(params, x, state, **own)
    row = {n: m[2] if n == "lengths" else m[:, 2] for n, m in own.items()}
    one = fj.lstm(params, x[:, 2], jax.tree.map(lambda s: s[:, 2], state), **row)
    np.testing.assert_array_equal(one[0], y[:, 2])
    assert_trees_close(one[1], jax.tree.map(lambda s: s[:, 2], final), dtype, "forward")


@pytest.mark.parametrize("which", ["lengths", "mask"])
def test_nan_in_steps_that_are_not_taken_reaches_nothing(which: str) -> None:
    params, x, _ = problem("lstm", "float32")
    own = marks(which)
    taken = own["mask"] if which == "mask" else jnp.arange(T)[:, None] < own["lengths"]
    x = jnp.where(taken[..., None], x, jnp.nan)
    for backend in (None, "scan"):
        loss = lambda p, x, b=backend: weighted(fj.lstm(p, x, backend=b, **own))  # noqa: E731
        with jax.debug_nans(backend is None):
            value, gradients = jax.value_and_grad(loss, (0, 1))(params, jnp.nan_to_num(x))
        value, gradients = jax.value_and_grad(loss, (0, 1))(params, x)
        assert jnp.isfinite(value)
        assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(gradients))


@pytest.mark.parametrize(("steps", "rows"), [(0, 2), (2, 0), (1, 1)])
def test_sequences_of_no_step_and_batches_of_no_row_work(steps: int, rows: int) -> None:
    params, _, _ = problem("lstm", "float32")
    h0 = jnp.ones((1, rows, H))
    y, (h_n, _) = fj.lstm(params, jnp.zeros((steps, rows, I)), (h0, h0))
    assert y.shape == (steps, rows, H)
    if steps == 0:
        np.testing.assert_array_equal(h_n, h0)


def test_a_state_dict_of_torch_gives_torchs_numbers() -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.LSTM(I, H, 2, bidirectional=True)
    x = torch.randn(T, B, I)
    params = {name: p.detach().numpy() for name, p in module.named_parameters()}
    y, (h_n, c_n) = fj.lstm(params, x.numpy())
    y_, (h_, c_) = module(x)
    for ours, theirs in ((y, y_), (h_n, h_), (c_n, c_)):
        assert_close(np.asarray(ours), theirs.detach().numpy(), "float32", "forward")


def test_parameters_without_biases_work(dtype: str) -> None:
    params = fj.init(jax.random.key(0), "gru", I, H, 2, bias=False, dtype=dtype)
    assert len(params) == 4
    x = jnp.ones((T, B, I), dtype)
    theirs = fj.gru(params, x, backend="scan")
    assert_trees_close(fj.gru(params, x), theirs, dtype, "forward")


def test_bits_do_not_depend_on_jit_or_threads() -> None:
    params, x, state = problem("lstm", "float32", 2, True)
    expected = fj.lstm(params, x, state)
    before = _core.num_threads()
    try:
        for threads in (1, 2, 5):
            _core.set_num_threads(threads)
            for a, e in zip(
                jax.tree.leaves(jax.jit(fj.lstm)(params, x, state)),
                jax.tree.leaves(expected),
                strict=True,
            ):
                np.testing.assert_array_equal(a, e)
    finally:
        _core.set_num_threads(before)


def test_training_lowers_the_loss() -> None:
    params, x, _ = problem("gru", "float32", 2)
    target = jnp.sin(jnp.arange(T * B * H).reshape(T, B, H) / 10)

    @jax.jit
    def step(params: Any) -> Any:
        loss, gradients = jax.value_and_grad(lambda p: jnp.mean((fj.gru(p, x)[0] - target) ** 2))(
            params
        )
        return loss, jax.tree.map(lambda p, g: p - 0.5 * g, params, gradients)

    losses = []
    for _ in range(60):
        loss, params = step(params)
        losses.append(float(loss))
    assert losses[-1] < 0.9 * losses[0]


BAD: list[tuple[str, Any, type[Exception], str]] = [
    (
        "x",
        jnp.zeros((2, 3)).reshape(1, 1, 2, 3),
        ValueError,
        r"argument 'x' must have shape \(T, B",
    ),
    ("x", jnp.zeros((7, 4, 5)), ValueError, r"weight_ih_l0 must have shape \(4H, I\) = \(24, 5\)"),
    ("x", jnp.zeros((7, 4, 3), jnp.complex64), TypeError, "must be of a real float dtype"),
    ("state", (jnp.zeros((1, 4, 6)),), TypeError, r"argument 'state' must be \(h0, c0\)"),
    ("state", (jnp.zeros((2, 4, 6)),) * 2, ValueError, r"'h0' must have shape \(L\*D, B, H\)"),
    ("lengths", jnp.ones(4), TypeError, "argument 'lengths' must be of an integer dtype"),
    ("lengths", jnp.ones(3, int), ValueError, r"'lengths' must have shape \(B,\) = \(4,\)"),
    ("mask", jnp.ones((7, 4)), TypeError, "argument 'mask' must be of dtype bool"),
    ("reset", jnp.ones((4, 7), bool), ValueError, "argument 'reset' must have the first two axes"),
    ("backend", "cuda", ValueError, "argument 'backend' must be None or 'scan'"),
    ("params", {}, ValueError, "argument 'params' lacks weight_ih_l0"),
    ("params", {"kernel": jnp.ones(3)}, ValueError, "argument 'params' has 'kernel'"),
]


@pytest.mark.parametrize(("argument", "value", "error", "message"), BAD)
def test_bad_input_is_named_while_tracing(
    argument: str, value: Any, error: type[Exception], message: str
) -> None:
    params, x, _ = problem("lstm", "float32")
    arguments = {"params": params, "x": x, argument: value}
    with pytest.raises(error, match="^lstm: .*" + message):
        fj.lstm(**arguments)


@pytest.mark.parametrize("lengths", [[8, 0, 0, 0], [-1, 0, 0, 0]])
def test_a_length_out_of_range_is_an_error_of_the_call(lengths: list[int]) -> None:
    params, x, _ = problem("lstm", "float32")
    with pytest.raises(jax.errors.JaxRuntimeError, match="lengths"):
        jax.block_until_ready(fj.lstm(params, x, lengths=jnp.array(lengths)))


def test_the_handlers_refuse_what_python_would_not_send() -> None:
    """Whoever calls the targets directly gets an error, not a crash."""
    f32 = lambda *shape: jnp.zeros(shape, jnp.float32)  # noqa: E731
    out = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)  # noqa: E731
    good = [f32(T, B, I), f32(4 * H, I), f32(4 * H, H)]
    results = [out(T, B, H), out(1, B, H), out(1, B, H)]
    lstm = np.int32(2)
    cases: list[tuple[list[Any], list[Any], dict[str, Any]]] = [
        (good, results, {"cell": np.int32(99), "given": np.int32(0)}),
        (good, results, {"cell": np.int32(-1), "given": np.int32(0)}),
        (good, results, {"cell": lstm}),
        (good, results, {"cell": np.float32(2.5), "given": np.int32(0)}),
        (good[:2], results, {"cell": lstm, "given": np.int32(0)}),
        (good, results[:2], {"cell": lstm, "given": np.int32(0)}),
        ([*good, f32(1)], results, {"cell": lstm, "given": np.int32(0)}),
        (good, [out(T, B, H + 1), *results[1:]], {"cell": lstm, "given": np.int32(0)}),
        (good, results, {"cell": lstm, "given": np.int32(1)}),
        ([good[0].astype(jnp.int8), *good[1:]], results, {"cell": lstm, "given": np.int32(0)}),
        ([f32(T, B), *good[1:]], results, {"cell": lstm, "given": np.int32(0)}),
    ]
    for arguments, wanted, attributes in cases:
        with pytest.raises(jax.errors.JaxRuntimeError, match="INVALID_ARGUMENT"):
            jax.block_until_ready(
                jax.ffi.ffi_call("fastrnn_forward", wanted)(*arguments, **attributes)
            )
    two = [out(T, B, 2 * H), out(2, B, H), out(2, B, H)]
    larger = [f32(8 * H, I), f32(8 * H, 2 * H)]
    with pytest.raises(jax.errors.JaxRuntimeError, match="of one shape for both directions"):
        jax.block_until_ready(
            jax.ffi.ffi_call("fastrnn_forward", two)(
                *good, *larger, cell=lstm, given=np.int32(BIDIRECTIONAL)
            )
        )
    good_again = jax.ffi.ffi_call("fastrnn_forward", results)(*good, cell=lstm, given=np.int32(0))
    assert good_again[0].shape == (T, B, H)


def test_importing_fastrnn_jax_needs_no_other_framework() -> None:
    code = "import sys, fastrnn.jax; assert not {'torch', 'keras', 'flax', 'onnx'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_cells_have_the_numbers_of_the_core() -> None:
    names = [name for name, _ in _core.cells()]
    assert set(CELLS) <= set(names)
    assert len(set(names)) == len(names)
    assert all(a != b for a, b in itertools.pairwise(names))
