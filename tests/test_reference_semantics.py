"""What lengths, mask, reset, reverse and the rest mean, each said in terms of simpler calls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from shapes import CELLS, FEATURES, Case, as_states, functions, make_case
from tolerances import assert_close

from fastrnn import reference

T, B, I, H = SHAPE = (6, 5, 3, 4)
WEIGHTS = ("w_ih", "w_hh", "b_ih", "b_hh")

every_cell = pytest.mark.parametrize("cell", CELLS)
every_feature = pytest.mark.parametrize("feature", FEATURES)
both_ways = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])


def run(case: Case) -> tuple[Any, tuple[Any, ...], Any]:
    """y, the final states as a tuple, and the gradients."""
    forward, backward, _ = functions(reference, case.cell)
    y, final, saved = forward(**case.inputs)
    return y, as_states(final), backward(saved, **case.cotangents)


def named(states: Any, suffix: str) -> dict[str, Any]:
    """(h, c) -> {"h0": h, "c0": c} for suffix "0"."""
    return {f"{n}{suffix}": s for n, s in zip(("h", "c"), states, strict=False)}


def initial_states(case: Case) -> tuple[Any, ...]:
    names = ("h0", "c0") if case.cell == "lstm" else ("h0",)
    return tuple(case.inputs.get(name, np.zeros((B, H))) for name in names)


def final_cotangents(case: Case) -> tuple[Any, ...]:
    return tuple(case.cotangents.values())[1:]


def close(actual: Any, expected: Any, kind: str = "forward") -> None:
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e, "float64", kind, T)


@every_feature
@every_cell
def test_forward_is_the_step_row_by_row(cell: str, feature: str) -> None:
    """Loops over single rows and single steps, with the options as plain ifs."""
    case = make_case(cell, *SHAPE, **FEATURES[feature])
    y, final, _ = run(case)
    step = functions(reference, cell).step
    x, *weights = (case.inputs.get(name) for name in ("x", *WEIGHTS))
    flags = {
        "mask": case.inputs.get("mask", np.ones(x.shape[:2], bool)),
        "reset": case.inputs.get("reset", np.zeros(x.shape[:2], bool)),
    }
    lengths = case.inputs.get("lengths", np.full(B, T))
    if case.batch_first:
        x, y = x.swapaxes(0, 1), y.swapaxes(0, 1)
        flags = {name: flag.T for name, flag in flags.items()}
    for b in range(B):
        state = tuple(s[b : b + 1] for s in initial_states(case))
        times = range(lengths[b])
        for t in reversed(times) if "reverse" in case.inputs else times:
            if flags["reset"][t, b]:
                state = tuple(np.zeros((1, H)) for _ in state)
            if flags["mask"][t, b]:
                state = as_states(
                    step(x[t, b : b + 1], state if cell == "lstm" else state[0], *weights)
                )
            assert_close(y[t, b : b + 1], state[0], "float64", "forward", T)
        assert not y[lengths[b] :, b].any()
        close([s[b : b + 1] for s in final], state)


@every_feature
@every_cell
def test_what_must_not_be_read_is_not_read(cell: str, feature: str) -> None:
    case = make_case(cell, *SHAPE, **FEATURES[feature])
    y, final, g = run(case)
    poisoned_y, poisoned_final, poisoned_g = run(case.poisoned())
    assert np.array_equal(poisoned_y, y)
    for a, b in zip((*poisoned_final, *poisoned_g), (*final, *g), strict=True):
        assert (a is None and b is None) or np.array_equal(a, b)


@both_ways
@every_cell
def test_beyond_the_length_all_is_exactly_zero(cell: str, reverse: bool) -> None:
    case = make_case(cell, *SHAPE, state=True, lengths=True, reverse=reverse)
    y, _, g = run(case)
    assert not case.valid.all()
    assert not y[~case.valid].any()
    assert not g.dx[~case.valid].any()
    assert (y[case.valid] != 0).any(axis=-1).all() or cell == "rnn_relu"


@both_ways
@every_cell
def test_length_zero_passes_the_state_and_its_gradient_through(cell: str, reverse: bool) -> None:
    case = make_case(cell, *SHAPE, state=True, lengths=[0] * B, reset=True, reverse=reverse)
    y, final, g = run(case)
    assert not y.any()
    for s, s0 in zip(final, initial_states(case), strict=True):
        assert np.array_equal(s, s0)
    for d0, d in zip(g[5:], final_cotangents(case), strict=True):
        assert np.array_equal(d0, d)
    assert not any(d.any() for d in g[:5])


@both_ways
@every_cell
def test_no_steps_pass_the_state_and_its_gradient_through(cell: str, reverse: bool) -> None:
    case = make_case(cell, 0, B, I, H, state=True, reverse=reverse)
    y, final, g = run(case)
    assert y.shape == (0, B, H)
    for s, s0 in zip(final, initial_states(case), strict=True):
        assert np.array_equal(s, s0)
    for d0, d in zip(g[5:], final_cotangents(case), strict=True):
        assert np.array_equal(d0, d)
    assert g.dx.shape == (0, B, I)
    assert not any(d.any() for d in g[:5])


@every_cell
def test_no_rows_give_empty_results_and_zero_gradients(cell: str) -> None:
    case = make_case(cell, T, 0, I, H, **FEATURES["all"])
    y, final, g = run(case)
    assert y.shape == (T, 0, H)
    assert all(s.shape == (0, H) for s in final)
    assert g.dx.shape == (T, 0, I)
    for name in WEIGHTS:
        d = getattr(g, f"d{name}")
        assert d.shape == case.inputs[name].shape
        assert not d.any()


@both_ways
@every_cell
def test_lengths_equal_cutting_each_row(cell: str, reverse: bool) -> None:
    case = make_case(cell, *SHAPE, state=True, lengths=True, reverse=reverse)
    y, final, g = run(case)
    total = {name: np.zeros_like(case.inputs[name]) for name in WEIGHTS}
    for b, length in enumerate(case.inputs["lengths"]):
        row = slice(b, b + 1)
        states = {n: case.inputs[n][row] for n in ("h0", "c0") if n in case.inputs}
        cut = case.with_inputs(x=case.inputs["x"][:length, row], lengths=None, **states)
        dstates = {n: d[row] for n, d in case.cotangents.items() if n != "dy"}
        dy = case.cotangents["dy"][:length, row]
        y_b, final_b, g_b = run(cut.with_cotangents(dy=dy, **dstates))
        close([y[:length, row], *(s[row] for s in final)], [y_b, *final_b])
        close([g.dx[:length, row], *(d[row] for d in g[5:])], [g_b.dx, *g_b[5:]], "gradient")
        for name in WEIGHTS:
            total[name] += getattr(g_b, f"d{name}")
    close([getattr(g, f"d{name}") for name in WEIGHTS], total.values(), "gradient")


@both_ways
@every_cell
def test_mask_equals_deleting_the_step(cell: str, reverse: bool) -> None:
    kept = np.array([False, True, True, False, False, True])
    mask = np.repeat(kept[:, np.newaxis], B, axis=1)
    case = make_case(cell, *SHAPE, state=True, mask=mask, reverse=reverse)
    y, final, g = run(case)

    # y repeats the step before it, so its gradient belongs to that step, or to the initial state.
    order = range(T)[::-1] if reverse else range(T)
    dy = np.zeros_like(case.cotangents["dy"])
    dh0, last = np.zeros((B, H)), None
    for t in order:
        last = t if kept[t] else last
        (dh0 if last is None else dy[last])[...] += case.cotangents["dy"][t]
        expected = initial_states(case)[0] if last is None else y[last]
        assert np.array_equal(y[t], expected)

    deleted = case.with_inputs(x=case.inputs["x"][kept], mask=None)
    y_d, final_d, g_d = run(deleted.with_cotangents(dy=dy[kept]))
    close([y[kept], *final], [y_d, *final_d])
    assert not g.dx[~kept].any()
    close([g.dx[kept], *g[1:]], [g_d.dx, *g_d[1:5], g_d.dh0 + dh0, *g_d[6:]], "gradient")


@both_ways
@every_cell
def test_reset_equals_a_new_sequence_from_zero(cell: str, reverse: bool) -> None:
    at = 2
    reset = np.zeros((T, B), bool)
    reset[at] = True
    case = make_case(cell, *SHAPE, state=True, reset=reset, reverse=reverse)
    y, final, g = run(case)

    early, late = slice(0, at), slice(at, T)
    if reverse:
        early, late = slice(at + 1, T), slice(0, at + 1)
    x, dy = case.inputs["x"], case.cotangents["dy"]
    no_end = dict.fromkeys(case.cotangents)
    no_start = dict.fromkeys(name for name in ("h0", "c0") if name in case.inputs)
    whole = case.with_inputs(reset=None)
    before = whole.with_inputs(x=x[early]).with_cotangents(**{**no_end, "dy": dy[early]})
    after = whole.with_inputs(x=x[late], **no_start).with_cotangents(dy=dy[late])
    y_b, _, g_b = run(before)
    y_a, final_a, g_a = run(after)
    close([y[early], y[late], *final], [y_b, y_a, *final_a])
    close([g.dx[early], g.dx[late], *g[5:]], [g_b.dx, g_a.dx, *g_b[5:]], "gradient")
    close(g[1:5], [p + q for p, q in zip(g_b[1:5], g_a[1:5], strict=True)], "gradient")


@every_cell
def test_reset_of_a_skipped_step_leaves_zero_and_no_gradient(cell: str) -> None:
    case = make_case(
        cell, 1, B, I, H, state=True, mask=np.zeros((1, B), bool), reset=np.ones((1, B), bool)
    )
    y, final, g = run(case)
    assert not any(array.any() for array in (y, *final, *g))


@every_cell
def test_reverse_equals_flipping_each_row(cell: str) -> None:
    case = make_case(cell, *SHAPE, state=True, lengths=True, reverse=True)
    times = np.arange(T)[:, np.newaxis]
    lengths = case.inputs["lengths"]
    source = np.where(times < lengths, lengths - 1 - times, times), np.arange(B)
    flipped = case.with_inputs(x=case.inputs["x"][source], reverse=False)
    y, final, g = run(case)
    y_f, final_f, g_f = run(flipped.with_cotangents(dy=case.cotangents["dy"][source]))
    close([y[source], *final], [y_f, *final_f])
    close([g.dx[source], *g[1:]], [g_f.dx, *g_f[1:]], "gradient")


@every_feature
@every_cell
def test_batch_first_transposes_and_changes_no_number(cell: str, feature: str) -> None:
    options = {**FEATURES[feature], "batch_first": False}
    time_first = make_case(cell, *SHAPE, **options)
    batch_first = make_case(cell, *SHAPE, **{**options, "batch_first": True})
    y, final, g = run(time_first)
    y_b, final_b, g_b = run(batch_first)
    assert np.array_equal(y_b.swapaxes(0, 1), y)
    assert np.array_equal(g_b.dx.swapaxes(0, 1), g.dx)
    for a, b in zip((*final_b, *g_b[1:]), (*final, *g[1:]), strict=True):
        assert (a is None and b is None) or np.array_equal(a, b)


@every_cell
def test_whole_sequence_equals_its_pieces(cell: str) -> None:
    case = make_case(cell, *SHAPE, state=True)
    y, final, _ = run(case)
    forward = functions(reference, cell).forward
    states, pieces = initial_states(case), []
    for steps in (slice(0, 1), slice(1, 4), slice(4, 6)):
        inputs = {**case.inputs, **named(states, "0"), "x": case.inputs["x"][steps]}
        piece, states, _ = forward(**inputs)
        states = as_states(states)
        pieces.append(piece)
    close([np.concatenate(pieces), *states], [y, *final])


@every_cell
def test_bias_left_out_equals_zero_bias_and_has_no_gradient(cell: str) -> None:
    case = make_case(cell, *SHAPE)
    for absent in ({"b_ih"}, {"b_hh"}, {"b_ih", "b_hh"}):
        y, final, g = run(case.with_inputs(**dict.fromkeys(absent)))
        zero = {name: np.zeros_like(case.inputs[name]) for name in absent}
        y_z, final_z, g_z = run(case.with_inputs(**zero))
        assert np.array_equal(y, y_z)
        close(final, final_z)
        assert {name for name in WEIGHTS if getattr(g, f"d{name}") is None} == absent
        assert np.array_equal(g.dw_hh, g_z.dw_hh)


@every_cell
def test_without_save_results_are_the_same_and_nothing_is_kept(cell: str) -> None:
    case = make_case(cell, *SHAPE, **FEATURES["all"])
    forward, backward, _ = functions(reference, cell)
    y, final, saved = forward(**case.inputs, save=False)
    assert saved is None
    assert np.array_equal(y, run(case)[0])
    assert all(map(np.array_equal, as_states(final), run(case)[1]))
    with pytest.raises(TypeError, match="save=False"):
        backward(saved, **case.cotangents)


@every_feature
def test_cell_sequence_ends_in_the_final_cell_state_and_is_zero_beyond_lengths(
    feature: str,
) -> None:
    case = make_case("lstm", *SHAPE, **FEATURES[feature])
    y, (_, c_n), _, c = reference.lstm_forward(**case.inputs, return_cell_sequence=True)
    assert c.shape == y.shape
    assert not c[~case.valid].any()
    if case.batch_first:
        c = c.swapaxes(0, 1)
    lengths = case.inputs.get("lengths", np.full(B, T))
    last = np.zeros(B, int) if "reverse" in case.inputs else lengths - 1
    rows = np.flatnonzero(lengths)
    assert np.array_equal(c[last[rows], rows], c_n[rows])


def test_cell_sequence_holds_the_final_cell_state_of_every_shorter_sequence() -> None:
    case = make_case("lstm", *SHAPE, state=True)
    *_, c = reference.lstm_forward(**case.inputs, return_cell_sequence=True)
    for t in range(T):
        _, (_, c_t), _ = reference.lstm_forward(**{**case.inputs, "x": case.inputs["x"][: t + 1]})
        assert_close(c[t], c_t, "float64", "forward", T)


@every_cell
def test_saved_can_be_used_again_after_the_inputs_changed(cell: str) -> None:
    case = make_case(cell, *SHAPE, **FEATURES["all"])
    forward, backward, _ = functions(reference, cell)
    _, _, saved = forward(**case.inputs)
    first = backward(saved, **case.cotangents)
    for array in case.inputs.values():
        array[...] = 1
    for a, b in zip(first, backward(saved, **case.cotangents), strict=True):
        assert np.array_equal(a, b)


@every_cell
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int32])
def test_any_real_dtype_is_computed_in_float64(cell: str, dtype: type) -> None:
    case = make_case(cell, *SHAPE, dtype, state=True)
    wide = case.with_inputs(**{n: a.astype(np.float64) for n, a in case.inputs.items()})
    y, final, g = run(case)
    assert {array.dtype for array in (y, *final, *g)} == {np.dtype(np.float64)}
    assert np.array_equal(y, run(wide)[0])


@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell != "rnn_relu"])
@pytest.mark.parametrize("size", [1e3, 1e300])
def test_huge_inputs_saturate_without_a_warning(cell: str, size: float) -> None:
    case = make_case(cell, *SHAPE)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        y, final, g = run(case.with_inputs(x=np.sign(case.inputs["x"]) * size))
    assert all(np.isfinite(array).all() for array in (y, *final, *g))


@every_cell
def test_nan_stays_in_its_row(cell: str) -> None:
    case = make_case(cell, *SHAPE)
    x = case.inputs["x"].copy()
    x[2, 1] = np.nan
    y, _, _ = run(case.with_inputs(x=x))
    y_clean, _, _ = run(case)
    others = np.arange(B) != 1
    assert np.isnan(y[2:, 1]).all()
    assert np.array_equal(y[:2], y_clean[:2])
    assert np.array_equal(y[:, others], y_clean[:, others])
