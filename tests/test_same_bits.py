"""For one backend the bits depend neither on threads, nor on the batch split, nor on streaming, nor
on strides.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from shapes import CELLS, DTYPES, FEATURES, as_states, functions, make_case

import fastrnn

BACKENDS = [name for name in fastrnn.backends() if name != "cuda"]
SIZES = [(10, 37), (200, 300)]  # I, H: sums in one piece, and in several


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


@pytest.fixture
def threads():
    before = fastrnn.get_num_threads()
    yield fastrnn.set_num_threads
    fastrnn.set_num_threads(before)


def same_bits(a, b):
    for x, y in zip(a, b, strict=True):
        assert (x is None) == (y is None)
        if x is not None:
            assert x.tobytes() == y.tobytes()


def run(cell, case, backend):
    forward, backward, _ = functions(fastrnn, cell)
    y, state, saved = forward(**case.inputs, backend=backend)
    return [y, *as_states(state), *backward(saved, **case.cotangents)]


@pytest.mark.parametrize("feature", ["plain", "all_reverse"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    "shape", [(40, 23, 10, 37), (7, 3, 20, 370)], ids=["rows_are_split", "units_are_split"]
)
def test_any_number_of_threads(cell, dtype, feature, shape, backend, threads):
    case = make_case(cell, *shape, dtype, seed=1, **FEATURES[feature])
    threads(1)
    one = run(cell, case, backend)
    for n in (2, 5):
        threads(n)
        same_bits(run(cell, case, backend), one)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("sizes", SIZES)
def test_any_split_of_the_batch(cell, dtype, sizes, backend):
    case = make_case(cell, 6, 19, *sizes, dtype, seed=2, state=True)
    forward, _, _ = functions(fastrnn, cell)
    y, state, _ = forward(**case.inputs, backend=backend)
    for split in (1, 4, 7, 18):
        for rows in (slice(0, split), slice(split, None)):
            part = {
                name: value[:, rows]
                if name == "x"
                else value[rows]
                if name in ("h0", "c0")
                else value
                for name, value in case.inputs.items()
            }
            y_part, state_part, _ = forward(**part, backend=backend)
            same_bits(
                [y_part, *as_states(state_part)],
                [y[:, rows].copy(), *(s[rows] for s in as_states(state))],
            )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("sizes", SIZES)
def test_whole_or_step_by_step(cell, dtype, sizes, backend):
    case = make_case(cell, 12, 9, *sizes, dtype, seed=3, state=True)
    forward, _, step = functions(fastrnn, cell)
    y, final, _ = forward(**case.inputs, backend=backend)
    inputs = dict(case.inputs)
    x, h, c = inputs.pop("x"), inputs.pop("h0"), inputs.pop("c0", None)
    state = h if c is None else (h, c)
    for t in range(12):
        state = step(x[t], state, **inputs, backend=backend)
        same_bits([as_states(state)[0]], [y[t]])
    same_bits(as_states(state), as_states(final))


@pytest.mark.parametrize("cell", CELLS)
def test_any_chunks_of_the_sequence(cell, backend):
    case = make_case(
        cell, 200, 3, 300, 70, np.float32, seed=4, state=True
    )  # several chunks of gx inside
    forward, _, _ = functions(fastrnn, cell)
    y, final, _ = forward(**case.inputs, backend=backend)
    inputs = dict(case.inputs)
    x = inputs.pop("x")
    for begin, end in ((0, 1), (1, 120), (120, 200)):
        part, state, _ = forward(x[begin:end], **inputs, backend=backend)
        same_bits([part], [y[begin:end]])
        inputs |= dict(zip(("h0", "c0"), as_states(state), strict=False))
    same_bits(as_states(state), as_states(final))


def strided(a):
    """The same values with a gap after each row, rows in reverse and columns apart."""
    room = np.zeros((*(2 * n + 1 for n in a.shape[:-1]), a.shape[-1] + 3), a.dtype)
    view = room[(*(slice(1, None, 2) for _ in a.shape[:-1]), slice(1, 1 + a.shape[-1]))]
    view = view[::-1]
    view[...] = a
    return view


@pytest.mark.parametrize("cell", CELLS)
def test_strided_and_read_only_arrays(cell, backend):
    case = make_case(cell, 7, 5, 6, 19, np.float32, seed=5, state=True)
    expected = run(cell, case, backend)
    inputs = {name: strided(value) for name, value in case.inputs.items()}
    cotangents = {name: strided(value) for name, value in case.cotangents.items()}
    for value in (*inputs.values(), *cotangents.values()):
        value.flags.writeable = False
    same_bits(run(cell, type(case)(cell, inputs, cotangents), backend), expected)


@pytest.mark.parametrize("cell", CELLS)
def test_fortran_order_misaligned_and_transposed_arrays(cell, backend):
    case = make_case(cell, 7, 5, 6, 19, np.float32, seed=6, state=True)
    expected = run(cell, case, backend)

    def misaligned(a):
        raw = np.zeros(a.nbytes + 1, np.uint8)
        view = raw[1:].view(a.dtype).reshape(a.shape)
        view[...] = a
        return view

    for change in (np.asfortranarray, misaligned):
        inputs = {name: change(value) for name, value in case.inputs.items()}
        cotangents = {name: change(value) for name, value in case.cotangents.items()}
        same_bits(run(cell, type(case)(cell, inputs, cotangents), backend), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("sizes", [(5, 7), (64, 64), (40, 150), (33, 17)])
def test_one_step_takes_its_weights_unpacked_where_a_stride_is_1(cell, dtype, sizes, backend):
    case = make_case(cell, 1, 1, *sizes, dtype, seed=8, state=True)

    def spread(w):  # no stride is 1, so that it is packed
        wide = np.zeros((2 * w.shape[0], 2 * w.shape[1]), w.dtype)
        wide[::2, ::2] = w
        return wide[::2, ::2]

    def laid(as_):
        weights = {name: as_(case.inputs[name]) for name in ("w_ih", "w_hh")}
        return run(cell, replace(case, inputs={**case.inputs, **weights}), backend)

    packed = laid(spread)
    same_bits(laid(np.ascontiguousarray), packed)
    same_bits(laid(np.asfortranarray), packed)


@pytest.mark.parametrize("cell", CELLS)
def test_batch_first_is_time_major_seen_otherwise(cell, backend):
    case = make_case(cell, 7, 5, 6, 19, np.float32, seed=7, **FEATURES["all"])
    forward, backward, _ = functions(fastrnn, cell)
    swapped = {
        name: value.swapaxes(0, 1) if name in ("x", "mask", "reset") else value
        for name, value in case.inputs.items()
    }
    y, state, saved = forward(**case.inputs, backend=backend)
    y_b, state_b, saved_b = forward(**swapped, batch_first=True, backend=backend)
    assert y_b.shape == (5, 7, 19)
    same_bits([y_b.swapaxes(0, 1).copy(), *as_states(state_b)], [y, *as_states(state)])
    g = backward(saved, **case.cotangents)
    g_b = backward(saved_b, **{**case.cotangents, "dy": case.cotangents["dy"].swapaxes(0, 1)})
    same_bits([g_b.dx.swapaxes(0, 1).copy(), *g_b[1:]], g)
