"""Forward mode and second derivatives: the reference against finite differences in float64, and the
core against the reference.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from family import EVERY_ONE, Case, Results, alone, assert_agrees, combination
from shapes import OWN_KERNELS
from tolerances import assert_close, tolerance

import fastrnn
from fastrnn import reference

STEP = 1e-5
OF_NORM = ("gain_ih", "gain_hh", "gain_c", "bias_c")
NOT_MOVED = ("lengths", "mask", "reset")
FIRST_ORDER = ("step_norms", "cell_sequence")  # options of backward alone
EVERY_ONE = [(cell, feature) for cell, feature in EVERY_ONE if feature not in FIRST_ORDER]
every_one = pytest.mark.parametrize(
    ("cell", "feature"), EVERY_ONE, ids=["-".join(e) for e in EVERY_ONE]
)


def arguments(case: Case) -> dict[str, Any]:
    """The arguments of forward that have a derivative."""
    norm = case.inputs.get("layer_norm")
    of_norm = {} if norm is None else {n: getattr(norm, n) for n in OF_NORM}
    return {
        name: value
        for name, value in {**case.inputs, **of_norm}.items()
        if isinstance(value, np.ndarray) and name not in NOT_MOVED
    }


def direction(case: Case, draw: np.random.Generator) -> dict[str, Any]:
    given = {**arguments(case), **case.cotangents}
    return {n: 0.3 * draw.standard_normal(a.shape).astype(a.dtype) for n, a in given.items()}


def moved(case: Case, along: dict[str, Any], step: float) -> Case:
    inputs, cotangents = dict(case.inputs), dict(case.cotangents)
    for name, t in along.items():
        if name in OF_NORM:
            norm = inputs["layer_norm"]
            inputs["layer_norm"] = norm._replace(**{name: getattr(norm, name) + step * t})
        else:
            group = cotangents if name in cotangents else inputs
            group[name] = group[name] + step * t
    return replace(case, inputs=inputs, cotangents=cotangents)


def of_first_order_left_out(case: Case) -> Case:
    options = {n: v for n, v in case.options.items() if n != "return_step_norms"}
    inputs = {n: v for n, v in case.inputs.items() if n != "return_cell_sequence"}
    cotangents = {n: v for n, v in case.cotangents.items() if n != "dc"}
    return replace(case, options=options, inputs=inputs, cotangents=cotangents)


def of_forward(case: Case, along: dict[str, Any]) -> dict[str, Any]:
    return {name: t for name, t in along.items() if name not in case.cotangents}


def flat(results: Any) -> list[Any]:
    """Arrays of nested tuples."""
    if isinstance(results, tuple):
        return [array for part in results for array in flat(part)]
    return [] if results is None else [results]


def saved_of(case: Case, namespace: Any, **options: Any) -> Any:
    return getattr(namespace, f"{case.family}_forward")(**case.inputs, **options)[2]


def jvp(case: Case, namespace: Any, along: dict[str, Any], **options: Any) -> Any:
    function = getattr(namespace, f"{case.family}_jvp")
    return function(saved_of(case, namespace, **options), of_forward(case, along))


def backward_jvp(case: Case, namespace: Any, along: dict[str, Any], **options: Any) -> Any:
    function = getattr(namespace, f"{case.family}_backward_jvp")
    saved = saved_of(case, namespace, **options)
    return function(saved, along, **case.cotangents, **case.options)


def double_backward(case: Case, namespace: Any, along: dict[str, Any], **options: Any) -> Any:
    function = getattr(namespace, f"{case.family}_double_backward")
    u = {f"d{name}": t for name, t in of_forward(case, along).items()}
    return function(saved_of(case, namespace, **options), u, **case.cotangents)


def results_of(case: Case) -> list[Any]:
    """What jvp is the derivative of: y, h_n, c_n, gates."""
    named, _ = replace(case, inputs={**case.inputs, "save": False}).run(reference)
    return list(named.values())


def gradients_of(case: Case) -> list[Any]:
    return flat(tuple(case.run(reference)[1]))


def compare(case: Case, along: dict[str, Any], function: Any, derivatives: list[Any]) -> Any:
    """Entry by entry with central differences of two step sizes: where these differ, a kink is
    near, and the entry is left out -> entries compared, entries left out.
    """

    def central(step: float) -> list[Any]:
        plus, minus = (function(moved(case, along, s)) for s in (step, -step))
        return [(p - m) / (2 * step) for p, m in zip(plus, minus, strict=True)]

    first, second = central(STEP), central(STEP / 3)
    assert len(derivatives) == len(first)
    done = left = 0
    for got, a, b in zip(derivatives, first, second, strict=True):
        assert got.shape == a.shape, case.name
        bound = tolerance("float64", "finite_difference") * (np.abs(b).max(initial=0.0) + 1e-3)
        smooth = np.abs(a - b) <= bound
        assert (np.abs(got - b)[smooth] <= 2 * bound).all(), case.name
        done, left = done + int(smooth.sum()), left + int((~smooth).sum())
    return np.array([done, left])


def check(case: Case, seed: int) -> Any:
    case = of_first_order_left_out(case)
    along = direction(case, np.random.default_rng([seed, 4]))
    counts = compare(case, along, results_of, flat(jvp(case, reference, along)))
    gradients = flat(tuple(backward_jvp(case, reference, along)))
    return counts + compare(case, along, gradients_of, gradients)


@every_one
def test_each_feature_matches_central_difference(cell: str, feature: str) -> None:
    done, left = check(alone(cell, feature, np.float64, seed=1), 1)
    assert left <= 0.1 * done


def test_combinations_match_central_difference() -> None:
    done, left = sum(check(combination(seed, np.float64), seed) for seed in range(100))
    assert left <= 0.05 * done


@every_one
def test_double_backward_is_the_transpose_of_backward_jvp(cell: str, feature: str) -> None:
    """u dB t = t dB' u, for any directions t of what backward takes and u of what it returns."""
    case = replace(alone(cell, feature, np.float64), options={})
    draw = np.random.default_rng(5)
    t, u = direction(case, draw), direction(case, draw)
    names = list(of_forward(case, t))
    forward = backward_jvp(case, reference, t)
    left = sum(float(np.sum(u[name] * getattr(forward, f"d{name}"))) for name in names)
    of_arguments, of_cotangents = double_backward(case, reference, u)
    right = sum(float(np.sum(t[name] * getattr(of_arguments, f"d{name}"))) for name in names)
    given = [t[name] for name in ("dy", "dh_n", "dc_n", "dgates") if name in case.cotangents]
    right += sum(float(np.sum(a * b)) for a, b in zip(given, flat(of_cotangents), strict=True))
    assert abs(left - right) <= 1e3 * tolerance("float64", "gradient") * abs(left)


@pytest.mark.parametrize("namespace", [fastrnn, reference], ids=["core", "reference"])
def test_wrong_directions_are_named(namespace: Any) -> None:
    case = alone("gru", "none", np.float64)
    saved = saved_of(case, namespace)
    with pytest.raises(ValueError, match=r"gru_jvp: .*tangents.* got 'peephole'"):
        namespace.gru_jvp(saved, {"peephole": np.zeros((3, 7))})
    with pytest.raises(
        ValueError, match=r"gru_jvp: .*tangents.*x.* \(5, 4, 3\), got .*\(5, 4, 2\)"
    ):
        namespace.gru_jvp(saved, {"x": np.zeros((5, 4, 2))})
    with pytest.raises(ValueError, match=r"gru_backward_jvp: .*tangents.*dy.* got .*\(5, 4, 2\)"):
        namespace.gru_backward_jvp(saved, {"dy": np.zeros((5, 4, 2))}, None)
    with pytest.raises(ValueError, match=r"gru_double_backward: .*cotangents.* got 'x'"):
        namespace.gru_double_backward(saved, {"x": np.zeros((5, 4, 3))}, None)
    with pytest.raises(TypeError, match=r"lstm_jvp: .*saved.* must"):
        namespace.lstm_jvp(saved, {})


def agree(case: Case, dtype: Any, seed: int, backends: Any = OWN_KERNELS, **options: Any) -> None:
    """jvp, backward_jvp and double_backward of the core with those of the reference."""
    case = of_first_order_left_out(case)
    along = direction(case, np.random.default_rng([seed, 6]))
    functions = [jvp, backward_jvp] if case.options else [jvp, backward_jvp, double_backward]
    for function in functions:

        def exact(case: Case, along: Any, function: Any = function) -> Results:
            return numbered(function(case, reference, along))

        expected = exact(case, along)
        for backend in backends:
            got = function(case, fastrnn, along, backend=backend, **options)
            assert all(array.dtype == dtype for array in flat(got))
            name = f"{function.__name__} of {case.name} on {backend}"
            assert_agrees(numbered(got), expected, exact, (case, along), "gradient", name)


def numbered(results: Any) -> Results:
    return {f"{type(results).__name__} {n}": array for n, array in enumerate(flat(results))}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@every_one
def test_the_core_matches_the_reference(cell: str, feature: str, dtype: Any) -> None:
    agree(alone(cell, feature, dtype, seed=1, H=17), dtype, 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("part", range(2))
def test_combinations_match_the_reference(part: int, dtype: Any) -> None:
    for seed in range(part, 120, 2):
        agree(combination(seed, dtype), dtype, seed)


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("part", range(20))
def test_thousands_of_combinations_match_the_reference(part: int, dtype: Any) -> None:
    for seed in range(part, 2000, 20):
        agree(combination(seed, dtype), dtype, seed)


def test_relu_matches_the_reference() -> None:
    case = alone("rnn", "none", np.float64)
    agree(replace(case, inputs={**case.inputs, "nonlinearity": "relu"}), np.float64, seed=2)


@pytest.mark.parametrize("save", ["recompute", "chunks"])
@pytest.mark.parametrize("seed", range(6))
def test_chunks_match_the_reference(save: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastrnn.checkpoint, "RECOMPUTE_ROWS", 9)
    agree(combination(seed, np.float64), np.float64, seed, OWN_KERNELS[:1], save=save)


def test_any_number_of_threads_gives_the_same_bits() -> None:
    before, bits = fastrnn.get_num_threads(), []
    case = alone("gru_reset_before", "layer_norm_output", np.float32, T=11, B=23, H=33)
    along = direction(case, np.random.default_rng(7))
    for n in (1, 2, 5):
        fastrnn.set_num_threads(n)
        results = flat((jvp(case, fastrnn, along), tuple(backward_jvp(case, fastrnn, along))))
        bits.append([a.tobytes() for a in results])
    fastrnn.set_num_threads(before)
    assert bits[0] == bits[1] == bits[2]


def test_without_directions_all_is_zero_and_none_is_zero() -> None:
    case = alone("lstm", "gates", np.float64)
    saved = saved_of(case, fastrnn)
    along = {"x": None, "dy": None}
    for results in (
        fastrnn.lstm_jvp(saved, {}),
        tuple(fastrnn.lstm_backward_jvp(saved, along, **case.cotangents)),
        fastrnn.lstm_double_backward(saved, {}, **case.cotangents),
    ):
        assert not any(a.any() for a in flat(results))


def test_what_is_linear_is_its_own_derivative() -> None:
    """Backward is linear in what comes to it."""
    case = alone("gru", "gates", np.float64)
    saved = saved_of(case, fastrnn)
    got = fastrnn.gru_backward_jvp(saved, case.cotangents, None)
    expected = fastrnn.gru_backward(saved, **case.cotangents)
    for name in ("dx", "dw_hh", "dh0"):
        assert_close(getattr(got, name), getattr(expected, name), "float64", "gradient", name=name)


def test_any_strides_and_kinds_of_arrays() -> None:
    torch = pytest.importorskip("torch", reason="arrays that speak DLPack")
    case = alone("lstm", "projection", np.float64)
    along = direction(case, np.random.default_rng(8))
    expected = flat(jvp(case, fastrnn, along))

    def scattered(a: Any) -> Any:
        room = np.zeros([2 * n for n in a.shape])
        view = room[tuple(slice(None, None, 2) for _ in a.shape)]
        view[...] = a
        return view

    for change in (scattered, torch.tensor):
        got = flat(jvp(case, fastrnn, {name: change(t) for name, t in along.items()}))
        for a, b in zip(got, expected, strict=True):
            assert a.tobytes() == b.tobytes()
    inputs = {
        n: torch.tensor(a) if isinstance(a, np.ndarray) else a for n, a in case.inputs.items()
    }
    for a, b in zip(flat(jvp(replace(case, inputs=inputs), fastrnn, along)), expected, strict=True):
        assert isinstance(a, torch.Tensor)
        assert a.numpy().tobytes() == b.tobytes()
