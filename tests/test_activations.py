"""sigmoid and tanh of every backend, over all floats, against the float64 function rounded.

They are reached through cells whose weights make the activation itself the result:
tanh(x) = RNN with w_ih = 1, w_hh = 0;  sigmoid(x) = GRU's z with n = 0 and h0 = 1, since h = z h0.
"""

from __future__ import annotations

import numpy as np
import pytest
from shapes import OWN_KERNELS
from tqdm import tqdm

import fastrnn


def rows_of(x, units):
    """x as rows of `units` inputs, each of one unit alone: whole vectors on every backend."""
    x = np.asarray(x)
    return np.pad(x, (0, -x.size % units)).reshape(1, -1, units), np.eye(units, dtype=x.dtype)


def tanh(x, backend, units=16):
    rows, one = rows_of(x, units)
    y = fastrnn.rnn_forward(rows, one, 0 * one, save=False, backend=backend)[0]
    return y.ravel()[: x.size]


def sigmoid(x, backend, units=16):
    rows, one = rows_of(x, units)
    w_ih = np.concatenate([0 * one, one, 0 * one])
    h0 = np.ones(rows.shape[1:], x.dtype)
    y = fastrnn.gru_forward(rows, w_ih, 0 * w_ih, h0=h0, save=False, backend=backend)[0]
    return y.ravel()[: x.size]


def exact_tanh(x):
    return np.tanh(x.astype(np.longdouble))


def exact_sigmoid(x):
    x = x.astype(np.longdouble)
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


FUNCTIONS = {"tanh": (tanh, exact_tanh), "sigmoid": (sigmoid, exact_sigmoid)}


def ulps(got, exact):
    """Distance to the exact value rounded, in units in its last place."""
    rounded = exact.astype(got.dtype).astype(np.longdouble)
    return np.max(np.abs(got - rounded) / np.spacing(np.abs(exact.astype(got.dtype))))


def all_floats(step):
    """Every step-th finite float32 (an inf would meet the zero weights that isolate sigmoid: 0 *
    inf is NaN).
    """
    bits = np.arange(0, 0x7F800000, step, dtype=np.uint32)
    return np.concatenate([bits, bits | np.uint32(0x80000000)]).view(np.float32)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("backend", OWN_KERNELS)
def test_within_2_ulp_over_float32(name, backend):
    function, exact = FUNCTIONS[name]
    x = all_floats(1009)
    near = np.linspace(-105, 105, 2_000_003, dtype=np.float32)
    for values in (x, near):
        with np.errstate(under="ignore"):
            assert ulps(function(values, backend), exact(values)) <= 2


FLOAT64 = {"tanh": np.tanh, "sigmoid": lambda x: 1 / (1 + np.exp(-x))}


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", FUNCTIONS)
def test_within_2_ulp_of_numpys_float64_function_rounded_for_every_float32(name):
    count = 1 << 20
    worst = dict.fromkeys(OWN_KERNELS, 0)
    for first in tqdm(range(0, 0x7F800000, count), desc=name, leave=False, disable=None):
        bits = np.arange(first, min(first + count, 0x7F800000), dtype=np.uint32)
        for sign in (0, 0x80000000):
            x = (bits | np.uint32(sign)).view(np.float32)
            with np.errstate(under="ignore", over="ignore"):
                # + 0: the sum that leads to the function makes 0 of -0
                exact = FLOAT64[name](x.astype(np.float64)).astype(np.float32) + 0
            for backend in OWN_KERNELS:
                got = FUNCTIONS[name][0](x, backend) + 0
                # of one sign: neighbours' bits differ by one
                assert np.array_equal(np.signbit(got), np.signbit(exact)), backend
                apart = np.abs(got.view(np.int32) - exact.view(np.int32)).max()
                worst[backend] = max(worst[backend], int(apart))
    print(f"{name}: units in the last place, at most: {worst}")
    assert max(worst.values()) <= 2


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("backend", OWN_KERNELS)
def test_within_2_ulp_over_float64(name, backend):
    function, exact = FUNCTIONS[name]
    rng = np.random.default_rng(0)
    x = np.concatenate(
        [
            np.linspace(-750, 750, 400_001),
            rng.normal(size=400_000),
            10 ** rng.uniform(-300, 3, 100_000),
        ]
    )
    with np.errstate(under="ignore"):
        assert ulps(function(x, backend), exact(x)) <= 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("backend", OWN_KERNELS)
def test_ends_zero_and_nan(backend, dtype):
    x = np.array([-1e38, 1e38, 0.0, np.nan, -1e30, 1e30], dtype)
    infinite = np.array([-np.inf, np.inf], dtype)
    # a unit a row: 0 * NaN and 0 * inf would reach the others
    t, s = tanh(x, backend, units=1), sigmoid(x, backend, units=1)
    assert np.array_equal(t, np.array([-1, 1, 0, np.nan, -1, 1], dtype), equal_nan=True)
    assert np.array_equal(s, np.array([0, 1, 0.5, np.nan, 0, 1], dtype), equal_nan=True)
    assert np.array_equal(tanh(infinite, backend, units=1), np.array([-1, 1], dtype))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("backend", OWN_KERNELS)
def test_monotone_where_they_saturate(name, backend):
    for begin, end in ((-120, -80), (-20, -5), (5, 20)):
        x = np.linspace(begin, end, 100_001, dtype=np.float32)
        with np.errstate(under="ignore"):
            assert (np.diff(FUNCTIONS[name][0](x, backend)) >= 0).all()
