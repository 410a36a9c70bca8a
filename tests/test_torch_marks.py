"""lengths=, mask= and reset= of fastrnn.torch's modules: what the NumPy reference says, in every
layer and direction.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from shapes import FEATURES, make_case
from test_torch_modules import CLASSES, results_and_gradients, tensors
from tolerances import assert_close
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fastrnn
import fastrnn.torch
from fastrnn import reference

T, B, I, H = 9, 6, 4, 7
CELLS = {
    "lstm": "LSTM",
    "gru": "GRU",
    "gru_reset_before": "GRU",
    "rnn_tanh": "RNN",
    "rnn_relu": "RNN",
}
MARKED = ("lengths", "mask", "reset", "all", "batch_first")


def module_of(cell: str, **options: Any) -> torch.nn.Module:
    if cell == "gru_reset_before":
        options["reset_after"] = False
    if cell == "rnn_relu":
        options["nonlinearity"] = "relu"
    module: torch.nn.Module = getattr(fastrnn.torch, CELLS[cell])(
        I, H, dtype=torch.float64, **options
    )
    return module


@pytest.mark.parametrize("feature", MARKED)
@pytest.mark.parametrize("cell", CELLS)
def test_one_layer_equals_the_reference(cell: str, feature: str) -> None:
    case = make_case(
        cell,
        T,
        B,
        I,
        H,
        np.float64,
        **{**FEATURES["all"], **FEATURES[feature], "bias": True, "state": True}
        if feature == "batch_first"
        else {**FEATURES[feature], "state": True},
    ).poisoned()
    given = {
        name: torch.from_numpy(np.ascontiguousarray(value))
        if isinstance(value, np.ndarray)
        else value
        for name, value in case.inputs.items()
    }
    module = module_of(cell, batch_first=case.batch_first)
    names = {
        "weight_ih_l0": "w_ih",
        "weight_hh_l0": "w_hh",
        "bias_ih_l0": "b_ih",
        "bias_hh_l0": "b_hh",
    }
    module.load_state_dict({key: given[name] for key, name in names.items()})
    x = given["x"].requires_grad_()
    h0 = given["h0"].requires_grad_()
    state = [h0[None], given["c0"].requires_grad_()[None]] if cell == "lstm" else [h0[None]]
    marks = {name: given[name] for name in ("lengths", "mask", "reset") if name in given}
    results = tensors(module(x, tuple(state) if cell == "lstm" else state[0], **marks))
    cotangents = [torch.from_numpy(case.cotangents["dy"])]
    cotangents += [
        torch.from_numpy(case.cotangents[name])[None] for name in ("dh_n", "dc_n")[: len(state)]
    ]
    wanted = [x, *module.parameters(), h0, *([given["c0"]] if cell == "lstm" else [])]
    gradients = torch.autograd.grad(results, wanted, cotangents)

    from shapes import functions

    forward, backward, _ = functions(reference, cell)
    y, final, saved = forward(**case.inputs)
    expected = [y, *(s[None] for s in (final if isinstance(final, tuple) else (final,)))]
    for got, e in zip(results, expected, strict=True):
        assert_close(got.detach(), e, np.float64, "forward", T)
    expected_gradients = backward(saved, **case.cotangents)
    for got, e, name in zip(gradients, expected_gradients, expected_gradients._fields, strict=True):
        assert_close(got, e, np.float64, "gradient", T, name=name)


@pytest.mark.parametrize("batch_first", [False, True], ids=["TBI", "BTI"])
@pytest.mark.parametrize("name", CLASSES)
def test_lengths_give_what_a_packed_sequence_gives(name: str, batch_first: bool) -> None:
    module = getattr(fastrnn.torch, name)(
        I, H, 2, bidirectional=True, batch_first=batch_first, dtype=torch.float64
    )
    x = torch.randn((B, T, I) if batch_first else (T, B, I), dtype=torch.float64)
    lengths = torch.tensor([3, 9, 1, 6, 6, 2])
    packed, packed_state = module(
        pack_padded_sequence(x, lengths, batch_first, enforce_sorted=False)
    )
    padded, _ = pad_packed_sequence(packed, batch_first)
    y, state = module(x, lengths=lengths)
    assert torch.equal(y, padded)
    for got, expected in zip(tensors(state), tensors(packed_state), strict=True):
        assert torch.equal(got, expected)


def test_lengths_may_be_zero_unsorted_and_of_any_integer_dtype() -> None:
    """torch.nn: "Length of all samples has to be greater than 0", and lengths must be int64 on the
    CPU.
    """
    module = fastrnn.torch.LSTM(I, H, 2, bidirectional=True)
    x = torch.randn(T, B, I)
    h0, c0 = torch.randn(4, B, H), torch.randn(4, B, H)
    lengths = [0, 9, 0, 4, 1, 9]
    y, (h_n, c_n) = module(x, (h0, c0), lengths=torch.tensor(lengths))
    assert torch.equal(h_n[:, 0], h0[:, 0])
    assert torch.equal(c_n[:, 2], c0[:, 2])
    for b, n in enumerate(lengths):
        assert not y[n:, b].any()
        assert y[:n, b].all()
    for other in (
        lengths,
        torch.tensor(lengths, dtype=torch.int32),
        torch.tensor(lengths, dtype=torch.uint8),
    ):
        assert torch.equal(module(x, (h0, c0), lengths=other)[0], y)


def test_what_lies_beyond_the_lengths_is_never_read_and_gets_no_gradient() -> None:
    module = fastrnn.torch.GRU(I, H, 2, bidirectional=True, dtype=torch.float64)
    lengths = torch.tensor([3, 9, 0, 6, 6, 2])
    x = torch.randn(T, B, I, dtype=torch.float64)
    beyond = torch.arange(T)[:, None] >= lengths
    poisoned = torch.where(beyond[..., None], torch.nan, x).requires_grad_()
    y, _ = module(poisoned, lengths=lengths)
    assert torch.equal(y, module(x, lengths=lengths)[0])
    (dx,) = torch.autograd.grad(
        y, poisoned, torch.where(beyond[..., None], torch.nan, torch.ones_like(y))
    )
    assert not dx[beyond].any()
    assert dx[~beyond].all()


def test_reset_starts_the_sequence_anew() -> None:
    """Two episodes in one row: what RL code does by hand, step by step."""
    module = fastrnn.torch.LSTM(I, H, 2, dtype=torch.float64)
    x = torch.randn(T, 1, I, dtype=torch.float64, requires_grad=True)
    reset = torch.zeros(T, 1, dtype=torch.bool)
    reset[4] = True
    y, (h_n, _) = module(x, reset=reset)
    first, _ = module(x[:4])
    second, (h_second, _) = module(x[4:])
    assert torch.equal(y, torch.cat([first, second]))
    assert torch.equal(h_n, h_second)
    (dx,) = torch.autograd.grad(y[4:].sum(), x)
    assert not dx[:4].any()


def test_mask_skips_steps() -> None:
    module = fastrnn.torch.GRU(I, H, batch_first=True, dtype=torch.float64)
    x = torch.randn(1, T, I, dtype=torch.float64)
    mask = torch.ones(1, T, dtype=torch.bool)
    mask[0, [0, 3, 4]] = False
    y, h_n = module(x, mask=mask)
    short, short_h_n = module(x[:, mask[0]])
    assert torch.equal(y[:, mask[0]], short)
    assert torch.equal(h_n, short_h_n)
    assert not y[0, 0].any()
    assert torch.equal(y[0, 3], y[0, 2])


BAD = {
    "wrong number": (
        {"lengths": torch.ones(B + 1, dtype=torch.int64)},
        ValueError,
        r"lengths must be of shape \(B,\) = \(6,\), got \(7,\)",
    ),
    "float": (
        {"lengths": torch.ones(B)},
        TypeError,
        r"lengths must be of an integer dtype, got torch.float32",
    ),
    "bool": (
        {"lengths": torch.ones(B, dtype=torch.bool)},
        TypeError,
        "lengths must be of an integer dtype",
    ),
    "too long": (
        {"lengths": torch.full((B,), T + 1)},
        ValueError,
        r"'lengths' must be between 0 and T = 9, got lengths\[0\] = 10",
    ),
    "negative": ({"lengths": torch.full((B,), -1)}, ValueError, r"got lengths\[0\] = -1"),
    "mask shape": (
        {"mask": torch.ones(B, T, dtype=torch.bool)},
        ValueError,
        r"mask must be of shape \(T, B\) = \(9, 6\), got \(6, 9\)",
    ),
    "mask dtype": (
        {"mask": torch.ones(T, B)},
        TypeError,
        r"mask must be a tensor of dtype bool, got torch.float32",
    ),
    "reset kind": (
        {"reset": [[False] * B] * T},
        TypeError,
        r"reset must be a tensor of dtype bool, got list",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_mark_is_refused_by_name(case: str) -> None:
    marks, error, message = BAD[case]
    for name in CLASSES:
        with pytest.raises(error, match=message):
            getattr(fastrnn.torch, name)(I, H)(torch.randn(T, B, I), **marks)


def test_marks_are_refused_where_they_have_no_meaning() -> None:
    module = fastrnn.torch.GRU(I, H)
    x = torch.randn(T, 2, I)
    with pytest.raises(
        ValueError, match="GRU: a PackedSequence cannot be combined with lengths, mask or reset"
    ):
        module(pack_padded_sequence(x, [9, 2]), lengths=torch.tensor([9, 2]))
    with pytest.raises(
        ValueError, match="GRU: lengths, mask and reset need an input with a batch dimension"
    ):
        module(x[:, 0], lengths=torch.tensor([3]))
    with pytest.raises(RuntimeError, match=r"input\.size"):
        module(torch.randn(T, 2, I + 1), lengths=torch.tensor([3, 4]))


def test_the_reset_gate_may_act_before_the_product() -> None:
    """The GRU of Cho et al. 2014, version 3; torch.nn has the other one alone."""
    module = fastrnn.torch.GRU(I, H, 2, bidirectional=True, reset_after=False)
    assert repr(module) == f"GRU({I}, {H}, num_layers=2, bidirectional=True, reset_after=False)"
    x = torch.randn(T, B, I)
    y, _ = module(x)
    assert not torch.allclose(y, _with_reset_after(module)(x)[0])
    cell = fastrnn.torch.GRUCell(I, H, reset_after=False)
    h = torch.randn(B, H)
    expected = reference.gru_step(
        *(t.detach().double().numpy() for t in (x[0], h, *cell.parameters())), reset_after=False
    )
    assert_close(cell(x[0], h).detach(), expected, "float32", "forward")
    assert_close(
        cell(x[0]).detach(),
        reference.gru_step(
            x[0].double().numpy(),
            None,
            *(t.detach().double().numpy() for t in cell.parameters()),
            reset_after=False,
        ),
        "float32",
        "forward",
    )


def _with_reset_after(module: torch.nn.Module) -> torch.nn.Module:
    other = fastrnn.torch.GRU(I, H, 2, bidirectional=True)
    other.load_state_dict(module.state_dict())
    return other


@pytest.mark.parametrize("name", CLASSES)
def test_bits_do_not_depend_on_how_the_batch_is_split(name: str) -> None:
    module = getattr(fastrnn.torch, name)(I, H, 2, bidirectional=True)
    x = torch.randn(T, B, I)
    whole = results_and_gradients(module, (x,))[0]
    for b in range(B):
        assert torch.equal(module(x[:, b : b + 1])[0], whole[:, b : b + 1])


def test_bits_of_a_cell_are_those_of_the_sequence() -> None:
    for name in CLASSES:
        module = getattr(fastrnn.torch, name)(I, H)
        cell = getattr(fastrnn.torch, name + "Cell")(I, H)
        cell.load_state_dict(
            {key.removesuffix("_l0"): value for key, value in module.state_dict().items()}
        )
        x = torch.randn(T, B, I)
        y, _ = module(x)
        state = None
        with torch.no_grad():
            for t in range(T):
                state = cell(x[t], state)
                assert torch.equal(tensors(state)[0], y[t])
