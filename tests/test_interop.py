"""Arrays of other libraries: taken without a copy through DLPack, results of the same kind."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from shapes import functions, make_case

import fastrnn

CELLS = ["lstm", "gru", "rnn_tanh"]


def run(cell, case, convert):
    forward, backward, _ = functions(fastrnn, cell)
    keep = ("lengths", "batch_first")
    inputs = {
        name: value if name in keep else convert(value) for name, value in case.inputs.items()
    }
    y, state, saved = forward(**inputs)
    return [y, *(state if isinstance(state, tuple) else (state,))], backward(
        saved, **{name: convert(value) for name, value in case.cotangents.items()}
    )


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    ("convert", "kind"),
    [(torch.from_numpy, torch.Tensor), (jnp.asarray, jax.Array)],
    ids=["torch", "jax"],
)
def test_results_are_of_the_kind_of_x(cell, convert, kind, batch_first):
    case = make_case(
        cell, 5, 3, 4, 9, np.float32, lengths=True, mask=True, state=True, batch_first=batch_first
    )
    outputs, gradients = run(cell, case, convert)
    expected, expected_gradients = run(cell, case, lambda a: a)
    for got, want in zip([*outputs, *gradients], [*expected, *expected_gradients], strict=True):
        assert isinstance(got, kind)
        assert np.array_equal(np.asarray(got), want)


def test_torch_tensors_are_read_where_they_lie():
    case = make_case("lstm", 5, 3, 4, 9, np.float32)
    tensors = {name: torch.from_numpy(value) for name, value in case.inputs.items()}
    transposed = {**tensors, "x": tensors["x"].transpose(0, 1).contiguous().transpose(0, 1)}
    y = fastrnn.lstm_forward(**tensors)[0]
    assert torch.equal(fastrnn.lstm_forward(**transposed)[0], y)
    step = fastrnn.lstm_step(tensors["x"][0], None, *list(tensors.values())[1:])
    assert isinstance(step[0], torch.Tensor)
    assert torch.equal(step[0], y[0])


def test_lengths_may_be_a_tensor():
    case = make_case("gru", 5, 3, 4, 9, np.float32)
    y = fastrnn.gru_forward(**case.inputs, lengths=torch.tensor([5, 0, 2], dtype=torch.int32))[0]
    assert np.array_equal(y, fastrnn.gru_forward(**case.inputs, lengths=[5, 0, 2])[0])


def test_a_tensor_with_gradients_is_refused_by_name():
    case = make_case("lstm", 5, 3, 4, 9, np.float32)
    inputs = {name: torch.from_numpy(value) for name, value in case.inputs.items()}
    inputs["w_hh"].requires_grad_()
    with pytest.raises(
        TypeError,
        match="lstm_forward: argument 'w_hh' of type Tensor cannot be read through DLPack",
    ):
        fastrnn.lstm_forward(**inputs)


def test_a_bfloat16_tensor_is_refused_by_name():
    case = make_case("lstm", 5, 3, 4, 9, np.float32)
    inputs = {name: torch.from_numpy(value) for name, value in case.inputs.items()}
    inputs["x"] = inputs["x"].bfloat16()
    with pytest.raises(TypeError, match="lstm_forward: argument 'x'"):
        fastrnn.lstm_forward(**inputs)


class Exported:
    """An array of an unknown library: nothing but the DLPack protocol and a namespace."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

    def __array_namespace__(self):
        return Namespace


class Namespace:
    @staticmethod
    def from_dlpack(array):
        return Exported(np.from_dlpack(array))


def test_any_library_with_dlpack_will_do():
    case = make_case("gru", 5, 3, 4, 9, np.float64)
    outputs, gradients = run("gru", case, Exported)
    expected, expected_gradients = run("gru", case, lambda a: a)
    for got, want in zip([*outputs, *gradients], [*expected, *expected_gradients], strict=True):
        assert isinstance(got, Exported)
        assert np.array_equal(got.array, want)
