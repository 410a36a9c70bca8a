"""Cases for the backend that KERAS_BACKEND chooses; tests/test_keras.py runs them for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
from tolerances import assert_close

import fastrnn
import fastrnn.keras

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
BACKEND = keras.backend.backend()
T, B, I, H = 7, 4, 3, 5
LAYERS: dict[str, Callable[..., Any]] = {
    "lstm": keras.layers.LSTM,
    "gru": keras.layers.GRU,
    "gru_reset_before": lambda units, **kw: keras.layers.GRU(units, reset_after=False, **kw),
    "rnn": keras.layers.SimpleRNN,
    "rnn_relu": lambda units, **kw: keras.layers.SimpleRNN(units, activation="relu", **kw),
}
OURS = {"lstm": fastrnn.keras.LSTM, "gru": fastrnn.keras.GRU, "rnn": fastrnn.keras.SimpleRNN}
MASK = np.array([[1] * 7, [1, 1, 1, 0, 0, 0, 0], [0] * 7, [0, 1, 0, 1, 1, 0, 1]], dtype=bool)


@pytest.fixture(autouse=True)
def _off_at_the_end() -> Iterator[None]:
    keras.utils.set_random_seed(7)
    fastrnn.keras.report()
    yield
    fastrnn.keras.disable()


def both(run: Callable[[], Any], fused: int = 1) -> tuple[list[Any], list[Any]]:
    """The results with and without, and a proof that ours were ours."""
    theirs = run()
    fastrnn.keras.enable()
    fastrnn.keras.report()
    ours = run()
    counted = fastrnn.keras.report()
    fastrnn.keras.disable()
    assert counted.fused >= fused, counted
    assert fused == 0 or not counted.left, counted
    return [[np.asarray(keras.ops.convert_to_numpy(a)) for a in found] for found in (ours, theirs)]


def x_of(dtype: str = "float32") -> Any:
    rng = np.random.default_rng(1)
    return keras.ops.convert_to_tensor(rng.standard_normal((B, T, I)).astype(dtype))


OPTIONS: list[dict[str, Any]] = [
    {},
    {"return_sequences": True, "return_state": True},
    {"return_sequences": True, "go_backwards": True},
    {"return_sequences": True, "use_bias": False},
    {"return_sequences": True, "dropout": 0.3},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_results_are_those_of_keras(kind: str, options: dict[str, Any]) -> None:
    layer = LAYERS[kind](H, **options)
    x = x_of()
    layer(x)
    rng = np.random.default_rng(2)  # biases are zeros at first
    layer.set_weights([rng.uniform(-0.7, 0.7, w.shape) for w in layer.get_weights()])
    run = lambda: f if isinstance(f := layer(x), list | tuple) else [f]  # noqa: E731
    for a, e in zip(*both(run), strict=True):
        assert a.dtype == e.dtype
        assert_close(a, e, "float32", "forward")


@pytest.mark.parametrize("go_backwards", [False, True])
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_masked_steps_repeat_or_are_zero_as_in_keras(
    kind: str, zero: bool, go_backwards: bool
) -> None:
    layer = LAYERS[kind](
        H,
        return_sequences=True,
        return_state=True,
        go_backwards=go_backwards,
        zero_output_for_mask=zero,
    )
    x, mask = x_of(), keras.ops.convert_to_tensor(MASK)
    layer(x)
    for a, e in zip(*both(lambda: layer(x, mask=mask)), strict=True):
        assert_close(a, e, "float32", "forward")


def test_an_initial_state_and_a_stateful_layer_go_on() -> None:
    layer = keras.layers.GRU(H, stateful=True, return_sequences=True)
    x, h0 = x_of(), keras.ops.ones((B, H))
    layer(x)

    def run() -> list[Any]:
        layer.reset_states()
        return [layer(x), layer(x), layer(x, initial_state=h0)]

    for a, e in zip(*both(run, 3), strict=True):
        assert_close(a, e, "float32", "forward")


@pytest.mark.parametrize("merge_mode", ["concat", "sum", None])
def test_bidirectional_layers_are_computed_too(merge_mode: str | None) -> None:
    for inner in (keras.layers.LSTM, keras.layers.GRU):
        layer = keras.layers.Bidirectional(inner(H, return_sequences=True), merge_mode=merge_mode)
        x, mask = x_of(), keras.ops.convert_to_tensor(MASK)
        layer(x)
        run = lambda f=layer, x=x, m=mask: keras.tree.flatten(f(x, mask=m))  # noqa: E731
        for a, e in zip(*both(run, 2), strict=True):
            assert_close(a, e, "float32", "forward")


def test_half_precision_keeps_its_dtype() -> None:
    half = keras.layers.LSTM(H, dtype="mixed_float16")
    half(x_of())
    (a,), (e,) = both(lambda: [half(x_of())])
    assert a.dtype == e.dtype == np.float16
    np.testing.assert_allclose(a, e, atol=3e-3)


@pytest.mark.skipif(BACKEND == "jax", reason="JAX has no float64 unless told to")
def test_float64_is_computed_in_float64() -> None:
    """Keras's own result on NumPy is 6e-8 off, so the oracle is the reference."""
    layer = keras.layers.LSTM(H, dtype="float64")
    x = np.random.default_rng(1).standard_normal((B, T, I))
    layer(x)
    weights = fastrnn.convert(
        [keras.ops.convert_to_numpy(w) for w in layer.weights], "keras", "torch", "lstm"
    )
    expected = fastrnn.reference.lstm_forward(x.transpose(1, 0, 2), *weights.values())[0][-1]
    fastrnn.keras.enable()
    y = keras.ops.convert_to_numpy(layer(x))
    assert y.dtype == np.float64
    assert_close(y, expected, "float64", "forward")


def test_what_is_not_supported_is_left_to_keras_and_named() -> None:
    left = {
        "activation other than tanh": keras.layers.LSTM(H, activation="relu"),
        "recurrent_activation other than sigmoid": keras.layers.GRU(
            H, recurrent_activation="hard_sigmoid"
        ),
        "activation other than tanh and relu": keras.layers.SimpleRNN(H, activation="gelu"),
        "unroll=True": keras.layers.LSTM(H, unroll=True),
        "use_cudnn=False": keras.layers.LSTM(H, use_cudnn=False),
    }
    for reason, layer in left.items():
        layer(x_of())
        (a,), (e,) = both(lambda layer=layer: [layer(x_of())], 0)
        np.testing.assert_array_equal(a, e)
        fastrnn.keras.enable()
        fastrnn.keras.report()
        layer(x_of())
        assert fastrnn.keras.report() == (0, {reason: 1})
        fastrnn.keras.disable()


def test_recurrent_dropout_is_left_to_keras_while_training_only() -> None:
    layer = keras.layers.LSTM(H, recurrent_dropout=0.5)
    layer(x_of())
    fastrnn.keras.enable()
    fastrnn.keras.report()
    layer(x_of(), training=True)
    assert fastrnn.keras.report() == (0, {"recurrent_dropout while training": 1})
    layer(x_of(), training=False)
    assert fastrnn.keras.report() == (1, {})


def test_input_dropout_drops_the_same_inputs_at_every_step() -> None:
    layer = keras.layers.LSTM(H, dropout=0.5, return_sequences=True, seed=3)
    x = keras.ops.ones((B, T, I))
    layer(x)
    fastrnn.keras.enable()
    first, second = (keras.ops.convert_to_numpy(layer(x, training=t)) for t in (True, False))
    assert fastrnn.keras.report().fused == 2
    assert not np.allclose(first, second)


@pytest.mark.parametrize("kind", OURS)
def test_layers_of_our_own_compute_what_keras_computes_and_are_saved(
    kind: str, tmp_path: Any
) -> None:
    theirs, ours = LAYERS[kind](H, return_sequences=True), OURS[kind](H, return_sequences=True)
    x = x_of()
    expected, _ = theirs(x), ours(x)
    ours.set_weights(theirs.get_weights())
    fastrnn.keras.report()
    y = ours(x)
    assert fastrnn.keras.report().fused == 1
    assert_close(
        keras.ops.convert_to_numpy(y), keras.ops.convert_to_numpy(expected), "float32", "forward"
    )
    model = keras.Sequential([keras.layers.Input((T, I)), ours])
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert type(again.layers[0]) is OURS[kind]
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(again(x)), keras.ops.convert_to_numpy(model(x))
    )


@pytest.mark.skipif(BACKEND == "numpy", reason="Keras does not train on this backend")
@pytest.mark.parametrize("kind", ["lstm", "gru", "gru_reset_before", "rnn"])
def test_fit_makes_the_same_steps(kind: str) -> None:
    x, target = np.asarray(keras.ops.convert_to_numpy(x_of())), np.ones((B, 1), np.float32)

    def run() -> list[Any]:
        keras.utils.set_random_seed(11)
        model = keras.Sequential(
            [
                keras.layers.Input((T, I)),
                keras.layers.Masking(),
                LAYERS[kind](H, return_sequences=True),
                LAYERS[kind](H),
                keras.layers.Dense(1),
            ]
        )
        model.compile("sgd", "mse")
        history = model.fit(x, target, epochs=3, batch_size=2, verbose=0, shuffle=False)
        return [np.array(history.history["loss"]), *model.get_weights()]

    ours, theirs = both(run, 2)
    assert ours[0][-1] < ours[0][0]
    for a, e in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, e, atol=1e-5)


def test_enable_twice_and_disable_leave_keras_as_it_was() -> None:
    classes = (keras.layers.LSTM, keras.layers.GRU, keras.layers.SimpleRNN)
    before = [dict(vars(cls)) for cls in classes]
    fastrnn.keras.enable()
    fastrnn.keras.enable()
    fastrnn.keras.disable()
    fastrnn.keras.disable()
    assert [dict(vars(cls)) for cls in classes] == before
