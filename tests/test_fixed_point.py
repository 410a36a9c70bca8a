"""The backend fixed: float32 in 24-bit fixed point (csrc/cpu/fixed.hpp, docs/numerics.md)."""

from __future__ import annotations

import numpy as np
import pytest
from tolerances import assert_close

import fastrnn

pytestmark = pytest.mark.skipif(
    "fixed" not in fastrnn.backends(), reason="this CPU has no AMX, or the system does not lend it"
)


def relu(x, w_ih, w_hh=None, backend="fixed", **more):
    if w_hh is None:
        w_hh = np.zeros((len(w_ih), len(w_ih)), w_ih.dtype)
    return fastrnn.rnn_forward(x, w_ih, w_hh, nonlinearity="relu", backend=backend, **more)


def test_it_is_used_only_where_it_is_asked_for():
    assert fastrnn.backends()[0] != "fixed"
    x, w = np.ones((1, 1, 3), np.float32), np.ones((4, 3), np.float32)
    assert relu(x, w)[2].backend == "fixed"


@pytest.mark.parametrize("rows", [1, 2, 3, 16, 17, 33, 70])
@pytest.mark.parametrize("terms", [1, 63, 64, 65, 200])
def test_products_of_small_integers_are_exact(rows, terms, rng):
    """Each factor then is one byte: no product of bytes is left out, and no order rounds."""
    x = rng.integers(-63, 64, (2, rows, terms)).astype(np.float32)
    w = rng.integers(-63, 64, (21, terms)).astype(np.float32)
    y, *_ = relu(x, w)
    assert np.array_equal(y, np.maximum(x.astype(np.int64) @ w.astype(np.int64).T, 0))


@pytest.mark.parametrize("spread", [0, 3, 8])
def test_each_sum_is_within_its_bound(spread, rng):
    """2^-20 of the largest value of the row by the largest of the weights, for each term."""
    terms = 300
    x, w = (
        (rng.standard_normal(shape) * 10 ** rng.uniform(-spread, spread, shape)).astype(np.float32)
        for shape in ((1, 37, terms), (50, terms))
    )
    exact = np.maximum(x.astype(np.float64) @ w.T.astype(np.float64), 0)
    bound = terms * 2.0**-20 * np.abs(x).max(-1, keepdims=True) * np.abs(w).max(-1)
    error = np.abs(relu(x, w)[0] - exact)
    assert (error <= bound + np.abs(exact) * 2.0**-22).all()
    assert error.max() > 0


@pytest.mark.parametrize("scale", [1e-30, 1e-37, 1e30])
def test_any_scale_has_its_exponent(scale, rng):
    x = (rng.standard_normal((3, 5, 40)) * scale).astype(np.float32)
    w = (rng.standard_normal((48, 40)) / np.float32(scale)).astype(np.float32)
    y = relu(x, w)[0]
    expected = np.maximum(x.astype(np.float64) @ w.T.astype(np.float64), 0)
    assert_close(y, expected, np.float32, "forward")


@pytest.mark.parametrize("rows", [1, 20])
def test_sums_longer_than_32_bits_hold(rows, rng):
    """Of bytes all at their largest, and past the first piece of 16384 terms."""
    terms = 40_001
    x = np.full((1, rows, terms), 0.99, np.float32)
    w = np.stack([np.full(terms, 0.99), rng.uniform(-1, 1, terms)]).astype(np.float32)
    expected = np.maximum(x.astype(np.float64) @ w.T.astype(np.float64), 0)
    assert_close(relu(x, w)[0], expected, np.float32, "forward", T=400)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_what_is_not_finite_comes_out_as_in_float32(cell, value, rng):
    forward, backward = (getattr(fastrnn, f"{cell}_{name}") for name in ("forward", "backward"))
    gates = {"lstm": 4, "gru": 3, "rnn": 1}[cell]
    x = rng.standard_normal((5, 19, 30)).astype(np.float32)
    w_ih, w_hh = (rng.uniform(-0.3, 0.3, (gates * 40, n)).astype(np.float32) for n in (30, 40))
    x[2, 3, 7] = value
    results = {}
    for backend in ("fixed", "avx512"):
        with np.errstate(invalid="ignore"):
            y, _, saved = forward(x, w_ih, w_hh, backend=backend)
            results[backend] = [y, *(g for g in backward(saved, np.ones_like(y)) if g is not None)]
    for got, expected in zip(results["fixed"], results["avx512"], strict=True):
        assert_close(got, expected, np.float32, "gradient", equal_nan=True)
    assert np.isfinite(results["fixed"][0][:, :3]).all()  # another row does not see it


def test_weights_that_are_not_finite_spoil_their_unit_alone(rng):
    x = rng.standard_normal((1, 4, 30)).astype(np.float32)
    w = rng.standard_normal((40, 30)).astype(np.float32)
    y = relu(x, w)[0]
    w[5, 2] = np.nan
    spoiled = relu(x, w)[0]
    others = np.arange(40) != 5
    assert np.isnan(spoiled[..., 5]).all()
    assert np.array_equal(spoiled[..., others], y[..., others])


def training(rng, backend, dtype, **options):
    """Bits of y and of all gradients of an LSTM."""
    shapes = (12, 9, 8), (48, 8), (48, 12)
    call = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    y, _, saved = fastrnn.lstm_forward(*call, **options, backend=backend)
    assert saved.backend == backend
    gradients = fastrnn.lstm_backward(saved, np.ones_like(y))
    return [a.tobytes() for a in (y, *gradients) if a is not None]


def test_float64_is_that_of_avx512():
    fixed, avx512 = (
        training(np.random.default_rng(5), name, np.float64) for name in ("fixed", "avx512")
    )
    assert fixed == avx512


@pytest.mark.parametrize(
    "options",
    [{"peephole": np.ones((3, 12), np.float32)}, {"zoneout": 0.2}, {"clip": 1.0}],
    ids=lambda options: next(iter(options)),
)
def test_with_options_it_is_amx(options):
    """Forward is made by vectors, and BPTT by the unit for bfloat16."""
    fixed, amx = (
        training(np.random.default_rng(5), name, np.float32, **options) for name in ("fixed", "amx")
    )
    assert fixed == amx
