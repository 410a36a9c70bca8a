"""The NumPy layers: torch's numbers, names and shapes; state, streaming, parameters and files."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest

import fastrnn

LAYERS = {
    "rnn_tanh": (fastrnn.RNN, {}),
    "rnn_relu": (fastrnn.RNN, {"nonlinearity": "relu"}),
    "lstm": (fastrnn.LSTM, {}),
    "gru": (fastrnn.GRU, {}),
    "gru_reset_before": (fastrnn.GRU, {"reset_after": False}),
}
each_layer = pytest.mark.parametrize("kind", LAYERS)
T, B, I, H = 6, 4, 3, 5


def make(kind, *sizes, **options):
    layer, extra = LAYERS[kind]
    return layer(*(sizes or (I, H)), **{"dtype": np.float64, "seed": 1} | extra | options)


def parts(state):
    return state if isinstance(state, tuple) else (state,)


def random_state(kind, rows, batch=B, seed=2, dtype=np.float64):
    generator = np.random.default_rng(seed)
    state = tuple(
        generator.uniform(-1, 1, (rows, batch, H)).astype(dtype)
        for _ in range(2 if kind == "lstm" else 1)
    )
    return state if kind == "lstm" else state[0]


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((T, B, I))


# ---------------------------------------------------------------------- torch
def torch_layer(torch, layer):
    options = {"nonlinearity": layer.nonlinearity} if isinstance(layer, fastrnn.RNN) else {}
    peer = getattr(torch.nn, type(layer).__name__)(
        layer.input_size,
        layer.hidden_size,
        layer.num_layers,
        bias=layer.bias,
        batch_first=layer.batch_first,
        bidirectional=layer.bidirectional,
        dtype=torch.float64,
        **options,
    )
    peer.load_state_dict({k: torch.tensor(v) for k, v in layer.state_dict().items()})
    return peer


def to_torch(torch, value):
    if isinstance(value, tuple):
        return tuple(to_torch(torch, part) for part in value)
    return torch.tensor(value, requires_grad=True)


@pytest.mark.parametrize("kind", [kind for kind in LAYERS if kind != "gru_reset_before"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("with_state", [False, True])
def test_outputs_and_all_gradients_equal_torch(
    kind, bidirectional, num_layers, bias, batch_first, with_state, x
):
    torch = pytest.importorskip("torch")
    layer = make(
        kind,
        num_layers=num_layers,
        bias=bias,
        batch_first=batch_first,
        bidirectional=bidirectional,
    )
    peer = torch_layer(torch, layer)
    if batch_first:
        x = np.ascontiguousarray(x.swapaxes(0, 1))
    rows = num_layers * (2 if bidirectional else 1)
    state = random_state(kind, rows) if with_state else None

    y, last = layer.forward(x, state, training=True)
    dy = np.random.default_rng(3).standard_normal(y.shape)
    dlast = random_state(kind, rows, seed=4)
    gradients = layer.backward(dy, dlast)

    x_torch = torch.tensor(x, requires_grad=True)
    state_torch = None if state is None else to_torch(torch, state)
    y_torch, last_torch = peer(x_torch, state_torch)
    torch.autograd.backward(
        (y_torch, *parts(last_torch)), tuple(map(torch.tensor, (dy, *parts(dlast))))
    )

    def equal(ours, theirs):
        np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-11, atol=1e-13)

    equal(y, y_torch)
    for ours, theirs in zip(parts(last), parts(last_torch), strict=True):
        equal(ours, theirs)
    equal(gradients.dx, x_torch.grad)
    if state is not None:
        for ours, theirs in zip(parts(gradients.dstate), parts(state_torch), strict=True):
            equal(ours, theirs.grad)
    theirs = dict(peer.named_parameters())
    assert list(gradients.parameters) == list(theirs)
    for name, ours in gradients.parameters.items():
        equal(ours, theirs[name].grad)


@pytest.mark.parametrize("kind", [kind for kind in LAYERS if kind != "gru_reset_before"])
def test_state_dict_has_torch_keys_order_and_shapes_and_loads_from_torch(kind):
    torch = pytest.importorskip("torch")
    layer = make(kind, num_layers=2, bidirectional=True, dtype=np.float32)
    peer = torch_layer(torch, make(kind, num_layers=2, bidirectional=True)).float()
    theirs = peer.state_dict()
    ours = layer.state_dict()
    assert list(ours) == list(theirs)
    assert [v.shape for v in ours.values()] == [tuple(v.shape) for v in theirs.values()]
    layer.load_state_dict(theirs)
    for name, value in theirs.items():
        np.testing.assert_array_equal(layer.parameters[name], value.numpy())


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_constructor_takes_torch_positional_arguments(name):
    torch = pytest.importorskip("torch")
    arguments = (3, 5, 2) + (("relu",) if name == "RNN" else ()) + (False, True, 0.5, True)
    ours = getattr(fastrnn, name)(*arguments)
    theirs = getattr(torch.nn, name)(*arguments)
    for attribute in ("num_layers", "bias", "batch_first", "dropout", "bidirectional"):
        assert getattr(ours, attribute) == getattr(theirs, attribute)
    assert [tuple(p.shape) for p in theirs.parameters()] == [
        p.shape for p in ours.parameters.values()
    ]


# ---------------------------------------------------------------------- sequences
@each_layer
@pytest.mark.parametrize("bidirectional", [False, True])
def test_padding_has_no_effect_and_no_gradient(kind, bidirectional, x):
    lengths = np.array([6, 0, 2, 5])
    layer = make(kind, num_layers=2, bidirectional=bidirectional)
    padded = x.copy()
    for row, length in enumerate(lengths):
        padded[length:, row] = np.nan
    y, last = layer.forward(padded, lengths=lengths, training=True)
    dy = np.ones_like(y)
    gradients = layer.backward(dy)
    assert not np.isnan(np.concatenate([v.ravel() for v in gradients.parameters.values()])).any()
    for row, length in enumerate(lengths):
        assert not y[length:, row].any()
        assert not gradients.dx[length:, row].any()
        alone, last_alone = layer.forward(x[:length, row : row + 1])
        np.testing.assert_allclose(y[:length, row], alone[:, 0], rtol=1e-12)
        for part, part_alone in zip(parts(last), parts(last_alone), strict=True):
            np.testing.assert_allclose(part[:, row], part_alone[:, 0], rtol=1e-12)


@each_layer
def test_a_reset_starts_the_row_afresh(kind, x):
    layer = make(kind, num_layers=2)
    reset = np.zeros((T, B), bool)
    reset[2, 1] = True
    y, _ = layer.forward(x, random_state(kind, 2), reset=reset)
    fresh, _ = layer.forward(x[2:, 1:2])
    np.testing.assert_allclose(y[2:, 1], fresh[:, 0], rtol=1e-12)


@each_layer
def test_a_masked_step_is_as_if_it_were_not_there(kind, x):
    layer = make(kind, num_layers=2)
    keep = np.array([True, True, False, True, False, True])
    _, last = layer.forward(x, mask=np.repeat(keep[:, None], B, axis=1))
    _, without = layer.forward(x[keep])
    for a, b in zip(parts(last), parts(without), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@each_layer
def test_batch_first_is_a_transposition_of_everything(kind, x):
    time_major = make(kind, num_layers=2, bidirectional=True)
    batch_major = make(kind, num_layers=2, bidirectional=True, batch_first=True)
    options = {
        "mask": np.random.default_rng(5).random((T, B)) < 0.7,
        "reset": np.random.default_rng(6).random((T, B)) < 0.3,
    }
    y, last = time_major.forward(x, training=True, **options)
    flipped = {name: value.T for name, value in options.items()}
    y_flipped, last_flipped = batch_major.forward(x.swapaxes(0, 1), training=True, **flipped)
    np.testing.assert_array_equal(y, y_flipped.swapaxes(0, 1))
    for a, b in zip(parts(last), parts(last_flipped), strict=True):
        np.testing.assert_array_equal(a, b)
    gradients = time_major.backward(y)
    gradients_flipped = batch_major.backward(y.swapaxes(0, 1))
    np.testing.assert_allclose(gradients.dx, gradients_flipped.dx.swapaxes(0, 1), rtol=1e-12)


@each_layer
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_streaming_gives_the_same_bits_as_the_whole_sequence(kind, dtype, x):
    layer = make(kind, num_layers=3, dtype=dtype)
    state = random_state(kind, 3, dtype=dtype)
    y, last = layer.forward(x.astype(dtype), state)
    for t in range(T):
        step, state = layer.step(x[t].astype(dtype), state)
        np.testing.assert_array_equal(step, y[t])
    for a, b in zip(parts(last), parts(state), strict=True):
        np.testing.assert_array_equal(a, b)


@each_layer
def test_step_without_a_state_starts_from_zero(kind, x):
    layer = make(kind, num_layers=2)
    y, _ = layer.forward(x[:1])
    np.testing.assert_array_equal(layer.step(x[0])[0], y[0])


@each_layer
@pytest.mark.parametrize(("steps", "batch"), [(0, B), (T, 0), (0, 0)])
def test_no_steps_and_no_rows_work(kind, steps, batch):
    layer = make(kind, num_layers=2, bidirectional=True)
    state = random_state(kind, 4, batch)
    y, last = layer.forward(np.zeros((steps, batch, I)), state, training=True)
    assert y.shape == (steps, batch, 2 * H)
    if steps == 0:
        for a, b in zip(parts(last), parts(state), strict=True):
            np.testing.assert_array_equal(a, b)
    gradients = layer.backward(y, last)
    assert gradients.dx.shape == (steps, batch, I)
    assert not any(value.any() for value in gradients.parameters.values())


# ---------------------------------------------------------------------- training
@each_layer
def test_gradients_are_those_of_finite_differences(kind, x):
    layer = make(kind, num_layers=2, bidirectional=True, dropout=0.4)
    state = random_state(kind, 4)

    def loss():
        layer.dropout_calls = 7  # the same masks each time
        y, last = layer.forward(x, state, training=True)
        return np.sum(y**2) / 2 + sum(np.sum(part) for part in parts(last)), y, last

    _, y, last = loss()
    ones = tuple(np.ones_like(part) for part in parts(last))
    gradients = layer.backward(y, ones if kind == "lstm" else ones[0])
    for name, gradient in gradients.parameters.items():
        place = tuple(np.array(gradient.shape) // 2)
        value = layer.parameters[name].copy()
        sides = []
        for change in (1e-6, -1e-6):
            moved = value.copy()
            moved[place] += change
            layer.update({name: moved})
            sides.append(loss()[0])
        layer.update({name: value})
        np.testing.assert_allclose(
            gradient[place], (sides[0] - sides[1]) / 2e-6, rtol=1e-6, atol=1e-8
        )


@each_layer
def test_dy_none_is_zero(kind, x):
    layer = make(kind, num_layers=2)
    dlast = random_state(kind, 2)
    y, _ = layer.forward(x, training=True)
    with_zeros = layer.backward(np.zeros_like(y), dlast)
    layer.forward(x, training=True)
    without = layer.backward(None, dlast)
    np.testing.assert_array_equal(with_zeros.dx, without.dx)
    for name, value in without.parameters.items():
        np.testing.assert_array_equal(with_zeros.parameters[name], value)


def test_backward_without_a_training_forward_raises(x):
    layer = make("lstm")
    layer.forward(x)
    with pytest.raises(RuntimeError, match=r"LSTM.backward: no forward\(training=True\)"):
        layer.backward(np.zeros((T, B, H)))


def test_backward_is_once_for_each_forward(x):
    layer = make("lstm")
    y, _ = layer.forward(x, training=True)
    layer.backward(y)
    with pytest.raises(RuntimeError, match="backward"):
        layer.backward(y)


def test_a_wrong_dy_leaves_backward_possible(x):
    layer = make("lstm")
    y, _ = layer.forward(x, training=True)
    with pytest.raises(ValueError, match=r"dy must be shaped as y = \(6, 4, 5\), got \(6, 4, 4\)"):
        layer.backward(y[..., :4])
    layer.backward(y)


def test_backward_uses_the_weights_of_its_forward(x):
    layer = make("lstm")
    y, _ = layer.forward(x, training=True)
    expected = layer.backward(y).dx
    layer.forward(x, training=True)
    layer.update({name: 2 * value for name, value in layer.parameters.items()})
    np.testing.assert_array_equal(layer.backward(y).dx, expected)


# ---------------------------------------------------------------------- parameters
@each_layer
def test_initial_parameters_are_uniform_within_one_over_root_h(kind):
    layer = make(kind, 40, 100, num_layers=2)
    for value in layer.parameters.values():
        assert np.abs(value).max() <= 0.1
        assert np.abs(value).max() > 0.097
        assert abs(value.mean()) < 4 * 0.1 / np.sqrt(3 * value.size)


def test_a_seed_gives_the_same_parameters_and_none_gives_others():
    same = [make("gru", seed=3).weight_ih_l0 for _ in range(2)]
    np.testing.assert_array_equal(*same)
    other = [make("gru", seed=None).weight_ih_l0 for _ in range(2)]
    assert (other[0] != other[1]).any()


def test_parameters_are_read_only():
    layer = make("lstm")
    for array in (
        layer.weight_ih_l0,
        layer.parameters["weight_ih_l0"],
        *layer.state_dict().values(),
    ):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    with pytest.raises(TypeError):
        layer.parameters["weight_ih_l0"] = np.zeros(3)


@pytest.mark.parametrize(
    "make_copy", [copy.copy, copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v))]
)
def test_a_copy_is_independent_and_read_only(make_copy, x):
    layer = make("lstm")
    layer.forward(x, training=True)
    twin = make_copy(layer)
    np.testing.assert_array_equal(twin.forward(x)[0], layer.forward(x)[0])
    assert not twin.weight_ih_l0.flags.writeable
    twin.bias_ih_l0 = np.zeros(4 * H)
    assert layer.bias_ih_l0.any()


def test_an_assigned_parameter_is_copied_and_used(x):
    layer = make("lstm")
    before = layer.forward(x)[0]
    new = np.zeros((4 * H, I))
    layer.weight_ih_l0 = new
    new[...] = 1
    assert not layer.weight_ih_l0.any()
    assert (layer.forward(x)[0] != before).any()


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (
            np.zeros((20, 4)),
            ValueError,
            r"LSTM: weight_ih_l0 must have shape \(20, 3\), got \(20, 4\)",
        ),
        (
            np.zeros((20, 3), np.float32),
            TypeError,
            "LSTM: weight_ih_l0 must be float64, got float32",
        ),
        (np.zeros((20, 3), int), TypeError, "must be float64, got int64"),
    ],
)
@pytest.mark.parametrize("way", ["assign", "update", "load_state_dict"])
def test_a_wrong_parameter_changes_nothing(value, error, message, way):
    layer = make("lstm")
    before = layer.state_dict()
    new = {"bias_ih_l0": np.zeros(20), "weight_ih_l0": value}
    change = {
        "assign": lambda: setattr(layer, "weight_ih_l0", value),
        "update": lambda: layer.update(new),
        "load_state_dict": lambda: layer.load_state_dict(before | new),
    }
    with pytest.raises(error, match=message):
        change[way]()
    for name, array in layer.state_dict().items():
        assert array is before[name]


def test_unknown_and_missing_parameters_are_named():
    layer = make("lstm")
    with pytest.raises(ValueError, match=r"LSTM.update: no such parameters: weight_ih_l1"):
        layer.update({"weight_ih_l1": np.zeros(1)})
    state = layer.state_dict()
    state["extra"] = state.pop("bias_ih_l0")
    with pytest.raises(ValueError, match=r"missing keys: bias_ih_l0; unexpected keys: extra"):
        layer.load_state_dict(state)
    with pytest.raises(AttributeError, match="LSTM has no parameter weight_ih_l1"):
        layer.weight_ih_l1 = np.zeros(1)
    with pytest.raises(AttributeError, match="no attribute 'wieght_ih_l0'"):
        _ = layer.wieght_ih_l0


# ---------------------------------------------------------------------- files
@each_layer
def test_a_saved_layer_comes_back_whole(kind, x, tmp_path):
    layer = make(kind, num_layers=2, bidirectional=True, dropout=0.5, batch_first=True)
    layer.forward(x.swapaxes(0, 1), training=True)
    layer.save(tmp_path / "layer")
    twin = type(layer).load(tmp_path / "layer")
    assert repr(twin) == repr(layer)
    for _ in range(2):  # dropout goes on from where it was
        ours, theirs = (each.forward(x.swapaxes(0, 1), training=True) for each in (layer, twin))
        np.testing.assert_array_equal(ours[0], theirs[0])


def test_a_saved_layer_is_plain_safetensors_with_torch_keys(tmp_path):
    from safetensors import safe_open

    layer = make("gru", reset_after=False)
    layer.save(tmp_path / "layer")
    with safe_open(tmp_path / "layer", framework="numpy") as file:
        assert set(file.keys()) == set(layer.parameters)
        description = json.loads(file.metadata()["fastrnn"])
    assert description["layer"] == "GRU"
    assert description["reset_after"] is False


def test_loading_what_is_not_a_layer_says_so(tmp_path):
    from safetensors.numpy import save_file

    make("gru").save(tmp_path / "gru")
    with pytest.raises(ValueError, match=r"LSTM.load: .*gru' holds a layer of kind GRU"):
        fastrnn.LSTM.load(tmp_path / "gru")
    (tmp_path / "text").write_text("not a model")
    with pytest.raises(ValueError, match=r"text' is not a file written by LSTM.save"):
        fastrnn.LSTM.load(tmp_path / "text")
    save_file({"a": np.zeros(3)}, tmp_path / "other")
    with pytest.raises(ValueError, match=r"other' is not a file written by LSTM.save"):
        fastrnn.LSTM.load(tmp_path / "other")
    content = (tmp_path / "gru").read_bytes()
    (tmp_path / "torn").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"torn' is not a file written by GRU.save"):
        fastrnn.GRU.load(tmp_path / "torn")
    with pytest.raises(FileNotFoundError):
        fastrnn.GRU.load(tmp_path / "missing")


# ---------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"input_size": 0}, ValueError, "LSTM: input_size must be at least 1, got 0"),
        ({"hidden_size": -1}, ValueError, "LSTM: hidden_size must be at least 1, got -1"),
        ({"num_layers": 1.5}, TypeError, "LSTM: num_layers must be an int, got 1.5"),
        ({"dropout": 1.5}, ValueError, r"LSTM: dropout must be in \[0, 1\], got 1.5"),
        ({"dropout": "a"}, TypeError, "LSTM: dropout must be a number, got 'a'"),
        ({"dtype": np.float16}, TypeError, "LSTM: dtype must be float32 or float64, got float16"),
        ({"seed": -1}, ValueError, r"LSTM: seed must be in \[0, 2\*\*64\), got -1"),
        ({"seed": "a"}, TypeError, "LSTM: seed must be an int or None, got 'a'"),
    ],
)
def test_bad_constructor_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        fastrnn.LSTM(**{"input_size": 3, "hidden_size": 5} | arguments)


def test_an_unknown_nonlinearity_is_named():
    with pytest.raises(ValueError, match="RNN: nonlinearity must be 'tanh' or 'relu', got 'sin'"):
        fastrnn.RNN(3, 5, nonlinearity="sin")


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_dropout_without_a_second_layer_warns_at_the_caller(kind):
    with pytest.warns(UserWarning, match="no effect with num_layers=1") as record:
        LAYERS[kind][0](3, 5, dropout=0.5)
    assert record[0].filename == __file__


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.zeros(3), ValueError, r"x must be \(T, B, I\) = \(any, any, 3\), got \(3,\)"),
        (np.zeros((2, 4)), ValueError, r"x must be \(T, I\) = \(any, 3\), got \(2, 4\)"),
        (np.zeros((2, 3, 4)), ValueError, r"x must be .*, got \(2, 3, 4\)"),
        (
            np.zeros((2, 3, 3), np.float32),
            TypeError,
            "x must be float64 as the layer is, got float32",
        ),
        ([[[1, 2, 3]]], TypeError, "x must be float64 as the layer is, got int64"),
    ],
)
def test_a_wrong_x_is_named(x, error, message):
    with pytest.raises(error, match="LSTM.forward: " + message):
        make("lstm").forward(x)


def test_a_wrong_state_is_named(x):
    zeros = np.zeros((1, B, H))
    with pytest.raises(
        TypeError, match=r"LSTM.forward: state must be a pair \(h, c\), got ndarray"
    ):
        make("lstm").forward(x, zeros)
    with pytest.raises(ValueError, match=r"c of state must be \(L \* D, B, H\) = \(1, 4, 5\), got"):
        make("lstm").forward(x, (zeros, zeros[:, :2]))
    with pytest.raises(TypeError, match=r"LSTM.step: state must be a pair \(h, c\), got ndarray"):
        make("lstm").step(x[0], zeros)
    with pytest.raises(
        ValueError, match=r"GRU.step: .*'h' must be of shape \(L, B, H\) = \(1, 4, 5\)"
    ):
        make("gru").step(x[0], zeros[0])
    with pytest.raises(ValueError, match=r"GRU.step: argument 'x' must be of shape \(B, I\), got"):
        make("gru").step(x)


def test_step_of_a_bidirectional_layer_raises(x):
    with pytest.raises(
        ValueError, match=r"LSTM\.step: a bidirectional layer needs the whole sequence"
    ):
        make("lstm", bidirectional=True).step(x[0])
