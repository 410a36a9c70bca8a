"""The layers' options beyond torch's: the functional calls that they stand for, gradients by finite
differences, states, files.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from tolerances import assert_close, tolerance

import fastrnn

T, B, I = 6, 3, 4

OPTIONS: dict[str, tuple[type, dict[str, Any]]] = {
    "sizes": (fastrnn.LSTM, {"hidden_size": [7, 5, 6]}),
    "projection": (fastrnn.LSTM, {"proj_size": 3, "num_layers": 2}),
    "projected gru": (fastrnn.GRU, {"proj_size": 3, "num_layers": 2, "bidirectional": True}),
    "projected rnn": (fastrnn.RNN, {"proj_size": 3, "hidden_size": [4, 5]}),
    "peephole": (fastrnn.LSTM, {"peephole": True, "num_layers": 2}),
    "coupled": (fastrnn.LSTM, {"coupled": True, "peephole": True}),
    "layer norm": (fastrnn.LSTM, {"layer_norm": "output", "bidirectional": True}),
    "layer norm of c": (fastrnn.LSTM, {"layer_norm": "state"}),
    "layer norm gru": (fastrnn.GRU, {"layer_norm": "output", "reset_after": False}),
    "activations": (fastrnn.GRU, {"activations": ["hardsigmoid", "sigmoid", "softsign"]}),
    "clips": (fastrnn.LSTM, {"clip": 2.0, "cell_clip": 1.0}),
    "zoneout": (fastrnn.LSTM, {"zoneout": (0.2, 0.1), "num_layers": 2, "dropout": 0.3}),
    "dropouts": (fastrnn.RNN, {"recurrent_dropout": 0.3, "weight_dropout": 0.2}),
    "sum": (fastrnn.GRU, {"merge": "sum", "bidirectional": True, "num_layers": 2}),
    "mul": (fastrnn.LSTM, {"merge": "mul", "bidirectional": True, "num_layers": 2}),
    "average": (fastrnn.RNN, {"merge": "average", "bidirectional": True, "num_layers": 2}),
    "reverse": (fastrnn.LSTM, {"reverse": True, "num_layers": 2}),
    "reverse peephole": (fastrnn.LSTM, {"reverse": True, "peephole": True}),
    "pair": (fastrnn.GRU, {"merge": None, "bidirectional": True, "hidden_size": [3, 4]}),
}


def make(name: str, **more: Any) -> Any:
    kind, options = OPTIONS[name]
    options = {"hidden_size": 7, "dtype": np.float64, "seed": 3, **options, **more}
    return kind(I, **options)


def parts(value: Any) -> list[Any]:
    """The arrays in y or a state."""
    if isinstance(value, np.ndarray):
        return [value]
    return [array for part in value for array in parts(part)]


def like(value: Any, arrays: Any) -> Any:
    if isinstance(value, np.ndarray):
        return next(arrays)
    return type(value)(like(part, arrays) for part in value)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("name", OPTIONS)
def test_gradients_match_central_differences(name: str, batch_first: bool) -> None:
    layer = make(name, batch_first=batch_first)
    draw = np.random.default_rng(5)
    x = draw.standard_normal((B, T, I) if batch_first else (T, B, I))
    lengths = [6, 2, 4]
    _, ends = layer.forward(x, training=True)
    layer.dropout_calls = 0
    state = like(ends, (draw.standard_normal(a.shape) for a in parts(ends)))
    y, ends, levels = layer.forward(x, state, lengths, training=True, return_layers=True)
    cotangents = [
        like(v, (draw.standard_normal(a.shape) for a in parts(v))) for v in (y, ends, levels)
    ]

    def loss(x: Any, state: Any) -> float:
        layer.dropout_calls = 0
        results = layer.forward(x, state, lengths, training=True, return_layers=True)
        pairs = zip(cotangents, results, strict=True)
        return float(
            sum(np.sum(d * a) for ds, v in pairs for d, a in zip(parts(ds), parts(v), strict=True))
        )

    loss(x, state)
    dy = cotangents[0]
    if layer._options["merge"] is None:  # the pair goes in with the levels'
        cotangents[2][-1] = tuple(a + b for a, b in zip(dy, cotangents[2][-1], strict=True))
        cotangents[0] = tuple(np.zeros_like(a) for a in dy)
        dy = None
        loss(x, state)
    g = layer.backward(dy, cotangents[1], dlayers=cotangents[2])
    step = 1e-5

    def check(label: str, gradient: Any, direction: Any, value_at: Any) -> None:
        size = np.sqrt(sum(np.sum(a**2) for a in gradient)) + 1e-3
        slope = sum(np.sum(a * d) for a, d in zip(gradient, direction, strict=True))
        wide, narrow = ((value_at(s) - value_at(-s)) / (2 * s) for s in (step, step / 2))
        difference = (4 * narrow - wide) / 3  # of the fourth order: a norm of little variance bends
        assert abs(slope - difference) <= tolerance("float64", "finite_difference") * size, label

    direction = draw.standard_normal(x.shape)
    check("dx", [g.dx], [direction], lambda s: loss(x + s * direction, state))
    directions = [draw.standard_normal(a.shape) for a in parts(state)]
    check(
        "dstate",
        parts(g.dstate),
        directions,
        lambda s: loss(
            x,
            like(state, (a + s * d for a, d in zip(parts(state), directions, strict=True))),
        ),
    )
    assert g.parameters.keys() == layer.parameters.keys()
    for key, value in dict(layer.parameters).items():
        assert g.parameters[key].shape == value.shape
        move = draw.standard_normal(value.shape)

        def moved(s: float, key: str = key, value: Any = value, move: Any = move) -> float:
            layer.update({key: value + s * move})
            result = loss(x, state)
            layer.update({key: value})
            return result

        check(key, [g.parameters[key]], [move], moved)


@pytest.mark.parametrize("name", OPTIONS)
def test_layers_are_stacks_of_functional_calls(name: str) -> None:
    """In evaluation, one direction."""
    layer = make(name, bidirectional=False, merge="concat")
    x = np.random.default_rng(0).standard_normal((T, B, I))
    y, _, levels = layer.forward(x, return_layers=True)
    family = type(layer).__name__.lower()
    out = x
    for level in range(layer.num_layers):
        p = layer._row_parameters(level, 0)
        options = {
            n: layer._options[n]
            for n in ("coupled", "activations", "clip", "cell_clip", "zoneout", "reverse")
        }
        if family != "lstm":
            del options["coupled"], options["cell_clip"]
        if layer._options["layer_norm"]:
            gains = (p.get(n) for n in ("gain_ih", "gain_hh", "gain_c", "bias_c"))
            options["layer_norm"] = fastrnn.LayerNorm(*gains, layer._options["layer_norm"])
        if family == "gru":
            options["reset_after"] = layer.reset_after
        out, *_ = getattr(fastrnn, f"{family}_forward")(
            out,
            *(p[n] for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")),
            w_hr=p.get("weight_hr"),
            **({"peephole": p.get("peephole")} if family == "lstm" else {}),
            training=False,
            **options,
        )
        assert np.array_equal(out, levels[level])
    assert np.array_equal(out, y)


@pytest.mark.parametrize("name", OPTIONS)
def test_files_and_repr_hold_the_options(name: str, tmp_path: Any) -> None:
    layer = make(name)
    layer.save(tmp_path / "layer")
    same = type(layer).load(tmp_path / "layer")
    assert repr(same) == repr(layer)
    x = np.random.default_rng(0).standard_normal((T, B, I))
    for a, b in zip(parts(layer.forward(x)[0]), parts(same.forward(x)[0]), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("name", ["sizes", "projection", "layer norm gru", "clips", "zoneout"])
def test_streaming_gives_the_bits_of_the_whole(name: str) -> None:
    layer = make(name)
    x = np.random.default_rng(0).standard_normal((T, B, I))
    whole, _ = layer.forward(x)
    state = None
    for t in range(T):
        y, state = layer.step(x[t], state)
        assert np.array_equal(y, whole[t])


@pytest.mark.parametrize("kind", [fastrnn.LSTM, fastrnn.GRU, fastrnn.RNN])
def test_saving_less_gives_the_same_gradients(kind: Any) -> None:
    x = np.random.default_rng(0).standard_normal((50, B, I))
    layer = kind(I, 5, 2, bidirectional=True, dtype=np.float64, seed=0)
    y, _ = layer.forward(x, training=True)
    expected = layer.backward(y)
    for save in ("chunks", "recompute"):
        assert np.array_equal(layer.forward(x, training=True, save=save)[0], y)
        g = layer.backward(y)
        assert_close(g.dx, expected.dx, "float64", "gradient")
        for name, value in expected.parameters.items():
            assert_close(g.parameters[name], value, "float64", "gradient", name=name)


def test_levels_are_the_outputs_of_shorter_stacks() -> None:
    tall = fastrnn.GRU(I, 5, 3, seed=1)
    x = np.random.default_rng(0).standard_normal((T, B, I)).astype(np.float32)
    _, _, levels = tall.forward(x, return_layers=True)
    for n in (1, 2, 3):
        short = fastrnn.GRU(I, 5, n, seed=1)
        short.update({name: tall.parameters[name] for name in short.parameters})
        assert np.array_equal(short.forward(x)[0], levels[n - 1])


def test_truncated_pieces_carry_the_state_and_cut_the_gradient() -> None:
    layer = fastrnn.LSTM(I, 5, 2, dtype=np.float64, seed=0)
    x = np.random.default_rng(0).standard_normal((7, B, I))
    lengths = [7, 2, 5]
    whole, _ = layer.forward(x, lengths=lengths)
    seen = []
    state = None
    for steps, y, after in layer.truncated(x, 3, lengths=lengths):
        assert np.array_equal(y, whole[steps])
        g = layer.backward(y)
        again, _ = layer.forward(
            x[steps], state, np.clip(np.array(lengths) - steps.start, 0, 3), training=True
        )
        assert np.array_equal(again, y)
        assert np.array_equal(layer.backward(y).dx, g.dx)
        state = after
        seen.append(steps)
    assert [s.start for s in seen] == [0, 3, 6]
    for option in ("bidirectional", "reverse"):
        layer = fastrnn.GRU(I, 5, **{option: True})
        with pytest.raises(ValueError, match=f"a {option} layer needs the whole sequence"):
            next(layer.truncated(x, 3))
        with pytest.raises(ValueError, match=f"a {option} layer needs the whole sequence"):
            layer.step(x[0])


@pytest.mark.parametrize("kind", [fastrnn.LSTM, fastrnn.GRU, fastrnn.RNN])
@pytest.mark.parametrize("options", [{}, {"clip": 1.0}, {"num_layers": 2}], ids=str)
def test_a_reverse_layer_is_the_second_direction_of_a_bidirectional_one(
    kind: Any, options: dict[str, Any]
) -> None:
    """Of each row's own steps, backwards: the layer forwards over the rows turned around."""
    layer = kind(I, 5, reverse=True, seed=2, **options)
    forwards = kind(I, 5, seed=2, **options)
    x = np.random.default_rng(1).standard_normal((T, B, I)).astype(np.float32)
    lengths = [6, 2, 4]
    turned, dy = x.copy(), np.ones((T, B, 5), np.float32)
    for row, length in enumerate(lengths):
        turned[:length, row] = x[:length, row][::-1]
    y, state = layer.forward(x, lengths=lengths, training=True)
    expected, end = forwards.forward(turned, lengths=lengths, training=True)
    for row, length in enumerate(lengths):
        assert np.array_equal(y[:length, row], expected[:length, row][::-1])
        assert not y[length:, row].any()
    for one, other in zip(parts(state), parts(end), strict=True):
        assert np.array_equal(one, other)
    got, wanted = layer.backward(dy).parameters, forwards.backward(dy).parameters
    for name, value in wanted.items():
        assert_close(got[name], value, np.float32, "gradient", T, name=name)


def test_reverse_is_refused_where_it_makes_no_sense() -> None:
    with pytest.raises(ValueError, match=r"LSTM: argument 'reverse' .* it is bidirectional"):
        fastrnn.LSTM(I, 5, reverse=True, bidirectional=True)
    bad: Any = "yes"
    with pytest.raises(TypeError, match="LSTM: reverse must be a bool, got 'yes'"):
        fastrnn.LSTM(I, 5, reverse=bad)


def test_masks_change_with_each_training_forward_and_not_in_evaluation() -> None:
    layer = fastrnn.LSTM(I, 5, recurrent_dropout=0.5, seed=0)
    x = np.random.default_rng(0).standard_normal((T, B, I)).astype(np.float32)
    first, second = (layer.forward(x, training=True)[0] for _ in range(2))
    assert not np.array_equal(first, second)
    layer.dropout_calls = 0
    assert np.array_equal(layer.forward(x, training=True)[0], first)
    plain = fastrnn.LSTM(I, 5, seed=0)
    assert np.array_equal(layer.forward(x)[0], plain.forward(x)[0])


def test_projection_loads_a_state_dict_of_torch() -> None:
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    module = torch.nn.LSTM(I, 7, 2, proj_size=3, bidirectional=True, dtype=torch.float64)
    layer = fastrnn.LSTM(I, 7, 2, proj_size=3, bidirectional=True, dtype=np.float64)
    layer.load_state_dict({n: v.numpy() for n, v in module.state_dict().items()})
    x = np.random.default_rng(0).standard_normal((T, B, I))
    y, (h_n, c_n) = layer.forward(x)
    expected, (h, c) = module(torch.tensor(x))
    for a, b in ((y, expected), (h_n, h), (c_n, c)):
        assert_close(a, b.detach().numpy(), "float64", "forward")


def test_orthogonal_weights_are_orthogonal() -> None:
    for how, kind in itertools.product(("orthogonal", "keras"), (fastrnn.LSTM, fastrnn.GRU)):
        layer = kind(I, 6, initialiser=how, dtype=np.float64, seed=0)
        w = layer.weight_hh_l0
        gates = [w] if how == "keras" else np.split(w, len(w) // 6)
        for gate in gates:
            np.testing.assert_allclose(gate.T @ gate, np.eye(6), atol=1e-12)
        if how == "keras":
            assert not layer.bias_ih_l0.any()
            assert np.abs(layer.weight_ih_l0).max() <= np.sqrt(6 / sum(layer.weight_ih_l0.shape))


def test_forget_bias_is_that_of_the_forget_gate_alone() -> None:
    layer = fastrnn.LSTM(I, 5, forget_bias=1.0, seed=0)
    usual = fastrnn.LSTM(I, 5, seed=0)
    assert np.array_equal(layer.bias_ih_l0[5:10] + layer.bias_hh_l0[5:10], np.ones(5))
    for name in ("bias_ih_l0", "bias_hh_l0"):
        others = np.delete(np.arange(20), np.arange(5, 10))
        assert np.array_equal(layer.parameters[name][others], usual.parameters[name][others])
    assert np.array_equal(layer.weight_ih_l0, usual.weight_ih_l0)


WRONG: dict[str, tuple[type, dict[str, Any], type[Exception], str]] = {
    "unknown": (fastrnn.LSTM, {"layernorm": True}, TypeError, "unexpected keyword argument"),
    "merge": (fastrnn.GRU, {"merge": "max"}, ValueError, "merge must be one of"),
    "peephole": (fastrnn.GRU, {"peephole": True}, ValueError, "'peephole' must be left out"),
    "coupled": (fastrnn.RNN, {"coupled": True}, ValueError, "'coupled' must be left out"),
    "zoneout": (fastrnn.LSTM, {"zoneout": 2.0}, ValueError, r"'zoneout' must be in \[0, 1\]"),
    "proj_size": (fastrnn.LSTM, {"proj_size": -1}, ValueError, "proj_size must be at least 0"),
    "projection before reset": (
        fastrnn.GRU,
        {"proj_size": 2, "reset_after": False},
        ValueError,
        "left out with reset_after=False",
    ),
    "forget_bias": (fastrnn.GRU, {"forget_bias": 1.0}, ValueError, "'forget_bias' must be left"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_options_are_refused_when_the_layer_is_made(what: str) -> None:
    kind, options, error, message = WRONG[what]
    with pytest.raises(error, match=f"{kind.__name__}: .*{message}"):
        kind(I, 5, **options)


@pytest.mark.parametrize("options", [{"coupled": True}, {"bias": False}], ids=str)
def test_forget_bias_without_a_forget_gate_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="'forget_bias' must be left out"):
        fastrnn.LSTM(3, 4, forget_bias=1.0, **options)


@pytest.mark.parametrize("kind", [fastrnn.LSTM, fastrnn.GRU, fastrnn.RNN])
def test_gradients_of_a_plain_layer_are_clipped_as_those_of_the_function(kind: Any) -> None:
    layer = kind(I, 5, seed=0, dtype=np.float64)
    x, dy = np.random.default_rng(1).standard_normal((2, T, B, I))
    dy = np.concatenate([dy, dy[..., :1]], -1)
    cell = kind.__name__.lower()
    weights = [layer.parameters[f"{name}_l0"] for name in ("weight_ih", "weight_hh")]
    biases = [layer.parameters[f"{name}_l0"] for name in ("bias_ih", "bias_hh")]
    saved = getattr(fastrnn, f"{cell}_forward")(x, *weights, *biases)[2]
    expected = getattr(fastrnn, f"{cell}_backward")(saved, dy, grad_clip=0.05)
    layer.forward(x, training=True)
    g = layer.backward(dy, grad_clip=0.05)
    assert np.array_equal(g.dx, expected.dx)
    assert np.array_equal(g.parameters["weight_hh_l0"], expected.dw_hh)
    layer.forward(x, training=True)
    with pytest.raises(ValueError, match="'grad_clip' must be above 0"):
        layer.backward(dy, grad_clip=-1.0)


@pytest.mark.parametrize(
    ("options", "given", "message"),
    [
        ({}, {"dy": (T, B, 4)}, r"'dy' must be of shape \(6, 3, 5\), got shape \(6, 3, 4\)"),
        ({}, {"dlayers": [(T, B, 4), None]}, r"'dlayers\[0\]' must be of shape \(6, 3, 5\)"),
        ({"bidirectional": True}, {"dy": (T, B, 5)}, r"'dy' must be of shape \(6, 3, 10\)"),
        (
            {"bidirectional": True, "merge": None},
            {"dy": (T, B, 10)},
            r"'dy' must be a pair of arrays of shape \(6, 3, 5\), got shape \(6, 3, 10\)",
        ),
    ],
)
def test_gradients_of_the_wrong_shape_are_named(
    options: dict[str, Any], given: dict[str, Any], message: str
) -> None:
    layer = fastrnn.GRU(I, 5, 2, seed=0, **options)
    layer.forward(np.zeros((T, B, I), np.float32), training=True, return_layers=True)
    arrays = {
        name: [None if s is None else np.zeros(s, np.float32) for s in shapes]
        if isinstance(shapes, list)
        else np.zeros(shapes, np.float32)
        for name, shapes in {"dy": None, **given}.items()
        if shapes is not None
    }
    with pytest.raises(ValueError, match=message):
        layer.backward(**{"dy": None, **arrays})


@pytest.mark.parametrize("merge", ["concat", None])
def test_gradients_of_the_last_level_add_up(merge: Any) -> None:
    layer = fastrnn.RNN(I, 5, 2, seed=0, bidirectional=True, merge=merge, dtype=np.float64)
    x, *given = np.random.default_rng(2).standard_normal((3, T, B, 10))
    d, other = (tuple(np.split(g, 2, -1)) if merge is None else g for g in given)
    both = tuple(a + b for a, b in zip(d, other, strict=True)) if merge is None else d + other
    results = []
    for dy, dlayers in ((d, [None, other]), (both, [None, None])):
        layer.forward(x[..., :I], training=True, return_layers=True)
        results.append(layer.backward(dy, dlayers=dlayers).dx)
    assert np.array_equal(*results)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(
    ("kind", "sizes", "options"),
    [
        (fastrnn.GRU, 4, {}),
        (fastrnn.LSTM, 4, {"bidirectional": True, "num_layers": 2}),
        (fastrnn.LSTM, [4, 6], {"peephole": True}),
        (fastrnn.RNN, 4, {"bidirectional": True, "merge": None}),
    ],
)
def test_one_sequence_is_a_batch_of_one_without_its_axis(
    kind: Any, sizes: Any, options: dict[str, Any], batch_first: bool
) -> None:
    rng = np.random.default_rng(31)
    layer = kind(3, sizes, batch_first=batch_first, dtype=np.float64, seed=5, **options)
    x, mask = rng.standard_normal((7, 3)), rng.random(7) < 0.7
    axis = 0 if batch_first else 1

    def batch(value: Any) -> Any:
        return tuple(map(batch, value)) if type(value) is tuple else np.expand_dims(value, axis)

    def agree(one: Any, many: Any, at: int) -> None:
        if isinstance(one, (tuple, list)):
            for a, b in zip(one, many, strict=True):
                agree(a, b, at)
        else:
            assert np.array_equal(np.expand_dims(one, at), many)

    results = []
    for change in (lambda value: value, batch):
        lengths = 5 if change is not batch else [5]
        y, state = layer.forward(
            change(x), lengths=lengths, mask=change(mask), reset=change(~mask), training=True
        )
        y, state = layer.forward(change(x), state, training=True)
        gradients = layer.backward(y, state)
        results.append((y, state, gradients))
    (y, state, one), (many_y, many_state, many) = results
    agree(y, many_y, axis)
    agree(state, many_state, -2)
    agree(one.dx, many.dx, axis)
    agree(one.dstate, many.dstate, -2)
    for name, gradient in many.parameters.items():
        assert np.array_equal(one.parameters[name], gradient)


def test_one_sequence_is_refused_by_its_own_shape() -> None:
    layer = fastrnn.LSTM(3, 4, seed=5)
    with pytest.raises(ValueError, match=r"x must be \(T, I\) = \(any, 3\), got \(7, 2\)"):
        layer.forward(np.zeros((7, 2), np.float32))
    y, _ = layer.forward(np.zeros((7, 3), np.float32), training=True)
    with pytest.raises(ValueError, match="dy must be"):
        layer.backward(y[:3])
    assert layer.backward(y).dx.shape == (7, 3)
