"""BPTT on AMX, where float32 products are made of bfloat16 ones: against the float64 reference, at
least as exact as the vectors, with proof that the unit ran.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from family import EVERY_ONE, Case, alone, assert_agrees, combination
from shapes import FEATURES, functions, make_case
from tolerances import assert_close

import fastrnn
from fastrnn import reference

pytestmark = pytest.mark.skipif(
    "amx" not in fastrnn.backends(), reason="this machine has no AMX unit for bfloat16"
)

CELLS = ["rnn_tanh", "rnn_relu", "lstm", "gru"]  # gru_reset_before has no such path
# T, B, I, H: the whole of BPTT by the unit, in one and in several chunks, of one and of many tiles;
# then the products with the weights by vectors; then the gradients of the weights alone by the unit
BY_UNIT = [(13, 8, 3, 16), (12, 19, 20, 37), (40, 17, 41, 100), (3, 70, 300, 290)]
SHAPES = [*BY_UNIT, (40, 5, 33, 130), (100, 1, 20, 150)]


def gradients(library: Any, cell: str, case: Any, **options: Any) -> dict[str, Any]:
    forward, backward, _ = functions(library, cell)
    saved = forward(**case.inputs, **options)[2]
    return dict(backward(saved, **case.cotangents)._asdict())


def agree(cell: str, case: Any, T: int) -> None:
    expected = gradients(reference, cell, case)
    for name, got in gradients(fastrnn, cell, case, backend="amx").items():
        assert_close(got, expected[name], np.float32, "gradient", T, name=name)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_match_the_reference(cell: str, shape: tuple[int, ...]) -> None:
    agree(cell, make_case(cell, *shape, np.float32, seed=11, state=True), shape[0])


@pytest.mark.parametrize("feature", sorted(set(FEATURES) - {"plain", "state"}))
@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm", "gru"])
def test_every_feature_matches_the_reference(cell: str, feature: str) -> None:
    agree(cell, make_case(cell, 40, 17, 41, 52, np.float32, seed=12, **FEATURES[feature]), 40)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_unit_ran(cell: str, shape: tuple[int, ...]) -> None:
    """Its sums are not those of the vectors to the last bit."""
    case = make_case(cell, *shape, np.float32, seed=13, state=True)
    unit, vectors = (gradients(fastrnn, cell, case, backend=name) for name in ("amx", "avx512"))
    assert unit["dw_hh"].tobytes() != vectors["dw_hh"].tobytes()
    if shape in BY_UNIT:
        assert unit["dh0"].tobytes() != vectors["dh0"].tobytes()
        assert unit["dx"].tobytes() != vectors["dx"].tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("cell", CELLS)
def test_outputs_have_the_bits_of_the_vectors(cell: str, dtype: Any) -> None:
    case = make_case(cell, 40, 17, 41, 100, dtype, seed=19, state=True)
    forward, _, _ = functions(fastrnn, cell)
    unit, vectors = (forward(**case.inputs, backend=name)[0] for name in ("amx", "avx512"))
    assert unit.tobytes() == vectors.tobytes()


# one cell has two products a step, which the vectors make
OPTIONS = [(cell, feature) for cell, feature in EVERY_ONE if cell != "gru_reset_before"]
with_every_option = pytest.mark.parametrize(
    ("cell", "feature"), OPTIONS, ids=["-".join(each) for each in OPTIONS]
)
# the whole of BPTT by the unit; then the products with the weights by vectors
OPTION_SIZES = [{"T": 9, "B": 19, "I": 20, "H": 37}, {"T": 19, "B": 7, "I": 20, "H": 140}]


def options_agree(case: Case, backend: str = "amx") -> None:
    def exact(case: Case) -> dict[str, Any]:
        return case.results(reference)

    with np.errstate(over="ignore", invalid="ignore"):  # some activations grow without bound
        got = case.results(fastrnn, backend=backend)
        assert_agrees(got, exact(case), exact, (case,), "", case.name)


@with_every_option
@pytest.mark.parametrize("sizes", OPTION_SIZES, ids=str)
def test_every_option_matches_the_reference(cell: str, feature: str, sizes: dict[str, int]) -> None:
    options_agree(alone(cell, feature, np.float32, seed=29, **sizes))


@pytest.mark.parametrize("part", range(2))
def test_combinations_of_options_match_the_reference(part: int) -> None:
    for seed in range(part, 60, 2):
        options_agree(combination(seed, np.float32, many_rows=True))


@pytest.mark.exhaustive
@pytest.mark.parametrize("part", range(20))
def test_thousands_of_combinations_match_the_reference(part: int) -> None:
    for seed in range(part, 3000, 20):
        options_agree(combination(seed, np.float32, many_rows=True))


@with_every_option
@pytest.mark.parametrize("sizes", OPTION_SIZES, ids=str)
def test_the_unit_ran_with_options(cell: str, feature: str, sizes: dict[str, int]) -> None:
    case = alone(cell, feature, np.float32, seed=29, **sizes)
    unit, vectors = (case.run(fastrnn, backend=name) for name in ("amx", "avx512"))
    for name, value in vectors[0].items():
        assert unit[0][name].tobytes() == value.tobytes()
    products = ["dw_hh", "dw_ih"]
    if sizes["B"] >= 8:
        products += ["dh0", "dx"]
    if feature == "projection":
        products.append("dw_hr")
    for name in products:
        assert getattr(unit[1], name).tobytes() != getattr(vectors[1], name).tobytes(), name


@with_every_option
def test_any_number_of_threads_with_options(cell: str, feature: str) -> None:
    before = fastrnn.get_num_threads()
    try:
        case = alone(cell, feature, np.float32, seed=23, T=23, B=23, I=60, H=70)
        bits = []
        for threads in (1, 2, 5):
            fastrnn.set_num_threads(threads)
            bits.append(case.run(fastrnn, backend="amx")[1])
        for name, value in bits[0]._asdict().items():
            for other in bits[1:]:
                assert value is None or getattr(other, name).tobytes() == value.tobytes(), name
    finally:
        fastrnn.set_num_threads(before)


def test_few_rows_and_other_dtypes_are_left_to_the_vectors() -> None:
    few = [(3, 31, 5, 20), (200, 7, 5, 127)]
    for dtype, shape in (*((np.float32, shape) for shape in few), (np.float64, (12, 19, 20, 37))):
        case = make_case("lstm", *shape, dtype, seed=14, state=True)
        unit, vectors = (gradients(fastrnn, "lstm", case, backend=b) for b in ("amx", "avx512"))
        for name, value in vectors.items():
            assert unit[name].tobytes() == value.tobytes()


@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm", "gru"])
def test_no_less_exact_than_the_vectors(cell: str) -> None:
    case = make_case(cell, 50, 24, 96, 128, np.float32, seed=15, state=True)
    expected = gradients(reference, cell, case)
    unit, vectors = (gradients(fastrnn, cell, case, backend=name) for name in ("amx", "avx512"))
    for name, value in expected.items():
        if value is not None:
            error = [np.sqrt(np.square(got[name] - value).mean()) for got in (unit, vectors)]
            assert error[0] <= 1.1 * error[1], name


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3.4028e38, 1e-38])
@pytest.mark.parametrize("where", ["dy", "x", "w_hh"])
def test_infinities_nan_and_the_largest_numbers(value: float, where: str) -> None:
    """What is finite stays finite, and what is not is where the vectors have it."""
    case = make_case("rnn_tanh", 10, 12, 20, 40, np.float32, seed=16)
    array: npt.NDArray[np.float32] = (case.cotangents if where == "dy" else case.inputs)[where]
    array[(3,) * array.ndim] = value
    with np.errstate(all="ignore"):
        unit, vectors = (gradients(fastrnn, "rnn_tanh", case, backend=b) for b in ("amx", "avx512"))
    for name, expected in vectors.items():
        if expected is None:
            continue
        np.testing.assert_array_equal(np.isfinite(unit[name]), np.isfinite(expected), err_msg=name)
        finite = np.isfinite(expected)
        scale = float(np.abs(expected[finite]).max(initial=1.0))
        assert_close(
            unit[name][finite], expected[finite], np.float32, "gradient", 10, name=name, scale=scale
        )


def test_any_strides_of_the_weights() -> None:
    case = make_case("gru", 12, 19, 20, 37, np.float32, seed=17, state=True)
    expected = gradients(fastrnn, "gru", case, backend="amx")
    inputs = {name: np.asfortranarray(value) for name, value in case.inputs.items()}
    got = gradients(fastrnn, "gru", type(case)(case.cell, inputs, case.cotangents), backend="amx")
    for name, value in expected.items():
        assert got[name].tobytes() == value.tobytes(), name


@pytest.mark.parametrize("shape", [(40, 23, 60, 100), (12, 9, 20, 600)], ids=str)
def test_any_number_of_threads(shape: tuple[int, ...]) -> None:
    before = fastrnn.get_num_threads()
    try:
        for cell in ("rnn_tanh", "lstm", "gru"):
            case = make_case(cell, *shape, np.float32, seed=18, state=True, lengths=True)
            fastrnn.set_num_threads(1)
            one = gradients(fastrnn, cell, case, backend="amx")
            for threads in (2, 5):
                fastrnn.set_num_threads(threads)
                for name, value in gradients(fastrnn, cell, case, backend="amx").items():
                    assert value.tobytes() == one[name].tobytes(), name
    finally:
        fastrnn.set_num_threads(before)
