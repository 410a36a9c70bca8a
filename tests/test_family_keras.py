"""The features of the family, and the NumPy layers, against Keras: all that it has of them.

In float32: Keras rounds matrix products to it even where everything is float64.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from tolerances import assert_close

import fastrnn

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras", reason="compares with Keras", exc_type=ImportError)
torch = pytest.importorskip("torch", reason="differentiates Keras's layers")

T, B, I, H = 6, 3, 4, 5
CELLS = ("lstm", "gru", "gru_reset_before", "rnn")
LAYERS = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU, "rnn": keras.layers.SimpleRNN}
OURS: dict[str, Any] = {"lstm": fastrnn.LSTM, "gru": fastrnn.GRU, "rnn": fastrnn.RNN}
ORDER = {"lstm": [0, 1, 2, 3], "gru": [1, 0, 2], "rnn": [0]}  # Keras's gates among torch's

pytestmark = [
    pytest.mark.skipif(keras.backend.backend() != "torch", reason="needs KERAS_BACKEND=torch"),
    pytest.mark.filterwarnings(  # Keras with the torch backend and NumPy 2
        "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
    ),
]


def keras_layer(cell: str, units: int = H, **options: Any) -> Any:
    family = cell.split("_")[0]
    if family == "gru":
        options["reset_after"] = cell == "gru"
    return LAYERS[family](units, return_sequences=True, **options)


def our_layer(cell: str, *sizes: Any, **options: Any) -> Any:
    family = cell.split("_")[0]
    if family == "gru":
        options["reset_after"] = cell == "gru"
    return OURS[family](*sizes, batch_first=True, seed=0, **options)


def weights_of(layer: Any, cell: str) -> dict[str, Any]:
    """Those of a built Keras layer, as ours are called."""
    family = cell.split("_")[0]
    kernel, recurrent, *bias = (np.asarray(w) for w in layer.get_weights())
    found = {"weight_ih": reordered(kernel.T, family), "weight_hh": reordered(recurrent.T, family)}
    if bias:
        both = bias[0] if bias[0].ndim == 2 else np.stack([bias[0], np.zeros_like(bias[0])])
        found["bias_ih"], found["bias_hh"] = (reordered(b, family) for b in both)
    return found


def reordered(w: Any, family: str) -> Any:
    """Between Keras's gates and ours: the permutations are their own inverse."""
    gates = ORDER[family]
    return np.ascontiguousarray(
        w.reshape(len(gates), -1, *w.shape[1:])[gates].reshape(w.shape), np.float32
    )


def with_random_biases(layer: Any, shape: tuple[int, ...]) -> Any:
    """The layer, built."""
    layer.build(shape)
    rng = np.random.default_rng(5)
    is_bias = [w.ndim == 1 or len(w) == 2 for w in layer.get_weights()]  # the GRU's has two rows
    layer.set_weights(
        [
            rng.uniform(-0.5, 0.5, w.shape) if bias else w
            for w, bias in zip(layer.get_weights(), is_bias, strict=True)
        ]
    )
    return layer


def inputs(seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal(s).astype(np.float32) for s in ((B, T, I), (B, T, H)))


def of_keras(layer: Any, x: Any, dy: Any, **call: Any) -> tuple[Any, Any]:
    """y and dx."""
    leaf = torch.tensor(x, requires_grad=True)
    y = layer(leaf, **call)
    parts = y if isinstance(y, (list, tuple)) else [y]
    cotangents = dy if isinstance(dy, (list, tuple)) else [dy]
    sum(
        (part * torch.tensor(d)).sum() for part, d in zip(parts, cotangents, strict=True)
    ).backward()
    found = [part.detach().numpy() for part in parts]
    return found if isinstance(y, (list, tuple)) else found[0], leaf.grad.numpy()


def compare(layer: Any, ours: Any, x: Any, dy: Any, **call: Any) -> None:
    expected, expected_dx = of_keras(layer, x, dy, **call)
    y, _ = ours.forward(x, training=True)
    g = ours.backward(dy)
    for a, b in zip(y, expected, strict=True) if isinstance(y, tuple) else [(y, expected)]:
        assert_close(a, b, "float32", "forward")
    assert_close(g.dx, expected_dx, "float32", "gradient")


ACTIVATIONS = {
    "relu": "relu",
    "softsign": "softsign",
    "softplus": "softplus",
    "elu": "elu",
    "linear": ("affine", 1.0, 0.0),
    "leaky_relu": ("leakyrelu", 0.2),
    "hard_sigmoid": ("hardsigmoid", 1 / 6, 0.5),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("cell", CELLS)
def test_activations_match_keras(cell: str, activation: str) -> None:
    options = {} if cell == "rnn" else {"recurrent_activation": "hard_sigmoid"}
    layer = keras_layer(cell, activation=activation, **options)
    with_random_biases(layer, (B, T, I))
    gate, chosen = ACTIVATIONS["hard_sigmoid"], ACTIVATIONS[activation]
    activations = {
        "lstm": [gate, gate, chosen, gate, chosen],
        "gru": [gate, gate, chosen],
        "rnn": [chosen],
    }
    ours = our_layer(cell, I, H, activations=activations[cell.split("_")[0]])
    ours.update({f"{name}_l0": w for name, w in weights_of(layer, cell).items()})
    compare(layer, ours, *inputs())


MERGES = {"concat": "concat", "sum": "sum", "mul": "mul", "ave": "average", None: None}


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("cell", CELLS)
def test_merge_modes_match_keras(cell: str, merge: str | None) -> None:
    layer = keras.layers.Bidirectional(keras_layer(cell), merge_mode=merge)
    layer.build((B, T, I))
    for direction in (layer.forward_layer, layer.backward_layer):
        with_random_biases(direction, (B, T, I))
    ours = our_layer(cell, I, H, bidirectional=True, merge=MERGES[merge])
    for direction, end in ((layer.forward_layer, "_l0"), (layer.backward_layer, "_l0_reverse")):
        ours.update({name + end: w for name, w in weights_of(direction, cell).items()})
    x, dy = inputs()
    other = inputs(1)[1]
    cotangents = {None: (dy, other), "concat": np.concatenate([dy, other], -1)}
    compare(layer, ours, x, cotangents.get(merge, dy))


@pytest.mark.parametrize("cell", CELLS)
def test_stacks_of_unequal_layers_match_keras(cell: str) -> None:
    layers = [keras_layer(cell, units) for units in (7, H)]
    layer = keras.Sequential(layers)
    for part, width in zip(layers, (I, 7), strict=True):
        with_random_biases(part, (B, T, width))
    ours = our_layer(cell, I, [7, H])
    for level, part in enumerate(layers):
        ours.update({f"{name}_l{level}": w for name, w in weights_of(part, cell).items()})
    compare(layer, ours, *inputs())


@pytest.mark.parametrize("cell", CELLS)
def test_going_backwards_matches_keras(cell: str) -> None:
    """Keras leaves y in the order in which it was computed."""
    layer = with_random_biases(keras_layer(cell, go_backwards=True), (B, T, I))
    x, dy = inputs()
    expected, expected_dx = of_keras(layer, x, dy)
    family = cell.split("_")[0]
    options = {"reset_after": cell == "gru"} if family == "gru" else {}
    forward, backward = (getattr(fastrnn, f"{family}_{name}") for name in ("forward", "backward"))
    weights = weights_of(layer, cell).values()
    y, _, saved = forward(x, *weights, reverse=True, batch_first=True, **options)
    assert_close(y[:, ::-1], expected, "float32", "forward")
    assert_close(backward(saved, dy[:, ::-1]).dx, expected_dx, "float32", "gradient")


@pytest.mark.parametrize("cell", CELLS)
def test_state_carried_between_calls_matches_stateful_keras(cell: str) -> None:
    layer = keras_layer(cell, stateful=True)
    with_random_biases(layer, (B, T, I))
    ours = our_layer(cell, I, H)
    ours.update({f"{name}_l0": w for name, w in weights_of(layer, cell).items()})
    state = None
    for seed in range(3):
        x, _ = inputs(seed)
        y, state = ours.forward(x, state)
        assert_close(y, layer(x).detach().numpy(), "float32", "forward", name=f"call {seed}")


@pytest.mark.parametrize("cell", CELLS)
def test_recurrent_dropout_is_for_training_alone_as_in_keras(cell: str) -> None:
    layer = with_random_biases(keras_layer(cell, recurrent_dropout=0.5), (B, T, I))
    ours = our_layer(cell, I, H, recurrent_dropout=0.5)
    ours.update({f"{name}_l0": w for name, w in weights_of(layer, cell).items()})
    x, _ = inputs()
    expected = layer(x, training=False).detach().numpy()
    assert_close(ours.forward(x)[0], expected, "float32", "forward")
    assert not np.array_equal(ours.forward(x, training=True)[0], expected)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_initial_weights_are_distributed_as_those_of_keras(cell: str) -> None:
    """Input weights by their quantiles, recurrent ones by what they are orthogonal in."""
    inputs, units = 40, 50
    keras.utils.set_random_seed(3)
    layer = keras_layer(cell, units)
    layer.build((B, T, inputs))
    theirs = weights_of(layer, cell)
    options = {"forget_bias": 1.0} if cell == "lstm" else {}
    ours = our_layer(cell, inputs, units, initialiser="keras", **options)
    quantiles = np.linspace(0.0, 1.0, 21)
    a, b = (np.quantile(w, quantiles) for w in (ours.weight_ih_l0, theirs["weight_ih"]))
    count = theirs["weight_ih"].size  # a quantile of so many draws is off by 1 / sqrt(count)
    assert np.abs(a - b).max() < 2 * b.max() * 4 / np.sqrt(count)
    for w in (ours.weight_hh_l0, theirs["weight_hh"]):
        assert_close(w.T @ w, np.eye(units), "float32", "gradient")
    biases = theirs["bias_ih"] + theirs["bias_hh"]
    assert np.array_equal(ours.bias_ih_l0 + ours.bias_hh_l0, biases)
    assert biases.sum() == (units if cell == "lstm" else 0)
