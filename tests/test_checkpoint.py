"""save="recompute" and save="chunks": the results and gradients of save=True, in less memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from family import EVERY_ONE, alone, combination
from shapes import CELLS, FEATURES, as_states, functions, make_case
from tolerances import assert_close

import fastrnn
from fastrnn import checkpoint

MODES = ("recompute", "chunks")


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "RECOMPUTE_ROWS", 12)


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("mode", MODES)
def test_plain_layers_give_the_same(cell: str, feature: str, mode: str) -> None:
    case = make_case(cell, 11, 4, 5, 7, np.float64, **FEATURES[feature])
    forward, backward, _ = functions(fastrnn, cell)
    y, state, saved = forward(**case.inputs)
    other_y, other_state, other = forward(**case.inputs, save=mode)
    assert y.tobytes() == other_y.tobytes()
    for a, b in zip(as_states(state), as_states(other_state), strict=True):
        assert a.tobytes() == b.tobytes()
    expected, got = backward(saved, **case.cotangents), backward(other, **case.cotangents)
    assert type(got) is type(expected)
    for name, a, b in zip(expected._fields, got, expected, strict=True):
        assert_close(a, b, "float64", "gradient", name=name)


@pytest.mark.parametrize(("cell", "feature"), EVERY_ONE, ids=["-".join(e) for e in EVERY_ONE])
@pytest.mark.parametrize("mode", MODES)
def test_every_feature_gives_the_same(cell: str, feature: str, mode: str) -> None:
    check(alone(cell, feature, np.float64, T=11), mode)


@pytest.mark.parametrize("mode", MODES)
def test_combinations_give_the_same(mode: str) -> None:
    for seed in range(60):
        check(combination(seed, np.float64), mode)


def check(case: Any, mode: str) -> None:
    named, gradients = case.run(fastrnn)
    other_named, other_gradients = replace(case, inputs={**case.inputs, "save": mode}).run(fastrnn)
    assert named.keys() == other_named.keys()
    for name, value in named.items():
        assert value.tobytes() == other_named[name].tobytes(), (case.name, name)
    for name in gradients._fields:
        got, expected = getattr(other_gradients, name), getattr(gradients, name)
        assert_close(got, expected, "float64", "gradient", name=f"{name} of {case.name}")


def test_what_is_held_grows_as_the_root_of_the_length() -> None:
    B, H = 2, 8
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((4 * H, n)) / 4 for n in (3, H)]
    held = {}
    for T in (400, 6400):
        x = rng.standard_normal((T, B, 3))
        saved = fastrnn.lstm_forward(x, *weights, save="chunks")[2]
        held[T] = saved.nbytes
        everything = T * B * 5 * H * 8  # c and four gates
        assert saved.nbytes <= everything / 20
    assert held[6400] <= 4.2 * held[400]


def test_a_mode_that_does_not_exist_is_refused() -> None:
    case = make_case("gru", 3, 2, 2, 3)
    with pytest.raises(ValueError, match="gru_forward: argument 'save' must be True, False, 'rec"):
        fastrnn.gru_forward(**case.inputs, save="some")


@pytest.mark.parametrize("lengths", [[1, 4], [-1, 2]])
def test_lengths_are_checked_before_they_are_cut(lengths: list[int]) -> None:
    case = make_case("gru", 3, 2, 2, 3)
    with pytest.raises(ValueError, match="'lengths' must be between 0 and T = 3, got lengths"):
        fastrnn.gru_forward(**case.inputs, lengths=lengths, save="chunks")


def test_saved_of_another_cell_is_refused() -> None:
    case = make_case("gru", 3, 2, 2, 3)
    saved = fastrnn.gru_forward(**case.inputs, save="chunks")[2]
    with pytest.raises(TypeError, match="lstm_backward: argument 'saved' must"):
        fastrnn.lstm_backward(saved, None)


def test_arrays_of_torch_come_back_as_tensors() -> None:
    torch = pytest.importorskip("torch", reason="passes tensors")
    case = make_case("rnn_tanh", 9, 2, 3, 4)
    tensors = {name: torch.tensor(value) for name, value in case.inputs.items()}
    y, h_n, saved = fastrnn.rnn_forward(**tensors, save="chunks")
    g = fastrnn.rnn_backward(saved, torch.ones_like(y))
    assert all(isinstance(a, torch.Tensor) for a in (y, h_n, *g))
    expected, *_ = fastrnn.rnn_forward(**case.inputs)
    assert np.array_equal(y.numpy(), expected)
