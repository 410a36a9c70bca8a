"""The features of the family on every CPU backend against the float64 reference: each alone, and
seeded combinations, of which a sample by default; threads, streaming and what is off.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from family import EVERY_ONE, Case, Results, alone, assert_agrees, combination
from tolerances import assert_close

import fastrnn
from fastrnn import reference

BACKENDS = [name for name in fastrnn.backends() if name != "cuda"]
DTYPES = (np.float32, np.float64)
SAMPLE, COMBINATIONS = 400, 5000


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def threads() -> Any:
    before = fastrnn.get_num_threads()
    yield fastrnn.set_num_threads
    fastrnn.set_num_threads(before)


def of_reference(case: Case) -> Results:
    return case.results(reference)


def check(case: Case, dtype: Any) -> None:
    """On every backend."""
    expected = of_reference(case)
    for backend in BACKENDS:
        got = case.results(fastrnn, backend=backend)
        assert all(array is None or array.dtype == dtype for array in got.values())
        assert_agrees(got, expected, of_reference, (case,), "", f"{case.name} on {backend}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("cell", "feature"), EVERY_ONE, ids=["-".join(e) for e in EVERY_ONE])
def test_each_feature_matches_reference(cell: str, feature: str, dtype: Any) -> None:
    for H in (7, 16, 33):
        check(alone(cell, feature, dtype, seed=H, H=H), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("part", range(4))
def test_combinations_match_reference(part: int, dtype: Any) -> None:
    for seed in range(part, SAMPLE, 4):
        check(combination(seed, dtype), dtype)


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("part", range(20))
def test_thousands_of_combinations_match_reference(part: int, dtype: Any) -> None:
    for seed in range(part, COMBINATIONS, 20):
        check(combination(seed, dtype), dtype)


@pytest.mark.parametrize(("cell", "feature"), EVERY_ONE, ids=["-".join(e) for e in EVERY_ONE])
def test_any_number_of_threads_gives_the_same_bits(
    cell: str, feature: str, backend: str, threads: Any
) -> None:
    case = alone(cell, feature, np.float32, T=11, B=23, H=33)
    bits = []
    for n in (1, 2, 5):
        threads(n)
        named, gradients = case.run(fastrnn, backend=backend)
        bits.append([a.tobytes() for a in (*named.values(), *gradients) if a is not None])
    assert bits[0] == bits[1] == bits[2]


def parts(state: Any) -> tuple[Any, ...]:
    return state if isinstance(state, tuple) else (state,)


def step_options(case: Case) -> dict[str, Any]:
    left_out = {"x", "h0", "c0", "return_gates", "return_cell_sequence"}
    return {name: value for name, value in case.inputs.items() if name not in left_out}


@pytest.mark.parametrize(("cell", "feature"), EVERY_ONE, ids=["-".join(e) for e in EVERY_ONE])
def test_step_by_step_gives_the_bits_of_the_whole(cell: str, feature: str, backend: str) -> None:
    if backend == "fixed" and feature == "gates":
        pytest.skip("a step gives no gates, and without options its products are in fixed point")
    case = alone(cell, feature, np.float32, T=4, H=17)
    case = replace(case, inputs={**case.inputs, "training": False})
    y, final, *_ = getattr(fastrnn, f"{case.family}_forward")(**case.inputs, backend=backend)
    step = getattr(fastrnn, f"{case.family}_step")
    state: Any = case.inputs["h0"]
    if "c0" in case.inputs:
        state = (state, case.inputs["c0"])
    for t, x in enumerate(case.inputs["x"]):
        state = step(x, state, **step_options(case), backend=backend)
        h = state[0] if isinstance(state, tuple) else state
        assert h.tobytes() == y[t].tobytes()
    for a, b in zip(parts(state), parts(final), strict=True):
        assert a.tobytes() == b.tobytes()


def test_reference_steps_as_the_core_does() -> None:
    for cell, feature in EVERY_ONE:
        case = alone(cell, feature, np.float64)
        state: Any = case.inputs["h0"]
        if "c0" in case.inputs:
            state = (state, case.inputs["c0"])
        arguments = (case.inputs["x"][0], state)
        ours, theirs = (
            getattr(n, f"{case.family}_step")(*arguments, **step_options(case))
            for n in (fastrnn, reference)
        )
        for a, b in zip(parts(ours), parts(theirs), strict=True):
            assert_close(a, b, "float64", "forward", name=f"{cell} {feature}")


@pytest.mark.parametrize("cell", ["lstm", "gru", "gru_reset_before", "rnn"])
def test_options_of_backward_work_on_a_plain_forward(cell: str, backend: str) -> None:
    """Step norms beside the plain gradients: the same gradients, to rounding."""
    case = alone(cell, "step_norms", np.float64)
    assert not {"layer_norm", "zoneout"} & case.inputs.keys()
    _, with_norms = case.run(fastrnn, backend=backend)
    _, plain = replace(case, options={}).run(fastrnn, backend=backend)
    for name in plain._fields:
        got, expected = getattr(with_norms, name), getattr(plain, name)
        assert_close(got, expected, "float64", "gradient", name=name)
    assert with_norms.step_norms.shape == (5, 4)


def test_arrays_of_the_features_may_have_any_strides() -> None:
    def strided(a: Any) -> Any:
        room = np.zeros([2 * n for n in a.shape], a.dtype)
        view = room[tuple(slice(None, None, 2) for _ in a.shape)]
        view[...] = a
        return view

    for feature in ("projection", "peephole", "layer_norm_state", "gates"):
        case = alone("lstm", feature, np.float32)
        inputs = {n: strided(v) if isinstance(v, np.ndarray) else v for n, v in case.inputs.items()}
        if "layer_norm" in inputs:
            norm = inputs["layer_norm"]
            inputs["layer_norm"] = norm._replace(
                **{n: strided(getattr(norm, n)) for n in ("gain_ih", "gain_hh", "gain_c", "bias_c")}
            )
        cotangents = {n: strided(v) for n, v in case.cotangents.items()}
        named, gradients = case.run(fastrnn)
        other = replace(case, inputs=inputs, cotangents=cotangents)
        other_named, other_gradients = other.run(fastrnn)
        for a, b in zip(
            (*named.values(), *gradients), (*other_named.values(), *other_gradients), strict=True
        ):
            assert (a is None and b is None) or a.tobytes() == b.tobytes()


def test_steps_beyond_sixteen_bits() -> None:
    """Zoneout's masks are keyed by t, which may be large."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((70_000, 1, 2))
    weights = rng.standard_normal((3, 2)), rng.standard_normal((3, 3)) / 3
    y, h_n, _ = fastrnn.rnn_forward(x, *weights, zoneout=0.2, seed=9, save=False)
    expected, *_ = reference.rnn_forward(x[:66_000], *weights, zoneout=0.2, seed=9, save=False)
    assert_close(y[:66_000], expected, "float64", "forward", 66_000)
    assert np.array_equal(h_n, y[-1])


WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "w_hr": ("lstm", {"w_hr": np.zeros((6, 7))}, r"'w_hr' must be of shape \(P, H\) = \(7, 7\)"),
    "w_hr axes": ("rnn", {"w_hr": np.zeros(7)}, r"'w_hr' must be of shape \(P, H\), got"),
    "peephole": ("lstm", {"peephole": np.zeros((2, 7))}, r"'peephole' must be of shape \(3, H\)"),
    "gain": (
        "gru",
        {"layer_norm": fastrnn.LayerNorm(np.ones(21), np.ones(20))},
        r"'gain_hh' must be of shape \(3\*H,\) = \(21,\), got shape \(20,\)",
    ),
    "h0 with w_hr": (
        "rnn",
        {"w_hr": np.zeros((2, 7)), "w_hh": np.zeros((7, 2))},
        r"'h0' must be of shape \(B, P\) = \(4, 2\), got shape \(4, 7\)",
    ),
    "c0 without w_hr": ("gru", {"c0": np.zeros((4, 7))}, "'c0' is a GRU's state with w_hr alone"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_arrays_are_named(what: str) -> None:
    cell, change, message = WRONG[what]
    case = alone(cell, "none", np.float64)
    with pytest.raises(ValueError, match=f"{case.family}_forward: argument {message}"):
        getattr(fastrnn, f"{case.family}_forward")(**{**case.inputs, **change})


def test_wrong_gradients_of_gates_are_named() -> None:
    case = alone("gru", "gates", np.float64)
    saved = fastrnn.gru_forward(**case.inputs)[2]
    with pytest.raises(ValueError, match=r"'dgates' must be of shape \(T, B, G, H\) = \(5, 4, 3"):
        fastrnn.gru_backward(saved, None, dgates=np.zeros((5, 4, 2, 7)))
    with pytest.raises(ValueError, match="'grad_clip' must be above 0, got -1"):
        fastrnn.gru_backward(saved, None, grad_clip=-1)
