"""The CUDA backend: what it says without a GPU, what ptxas makes of its kernels, and, on a GPU,
that it matches the reference.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import ROOT, run
from shapes import CELLS, DTYPES, FEATURES, as_states, functions, make_case
from tolerances import assert_close, assert_gradients_close

import fastrnn
from fastrnn import _core, reference

HAS_GPU = "cuda" in fastrnn.backends()


def test_without_a_gpu_cuda_is_known_but_refused_with_the_reason() -> None:
    if HAS_GPU:
        pytest.skip("there is a GPU")
    assert "cuda" in _core.backends(compiled=True)
    case = make_case("lstm", 3, 2, 4, 5, np.float32)
    with pytest.raises(
        ValueError, match=r"backend 'cuda' cannot run here: (no CUDA device|.*without CUDA)"
    ):
        fastrnn.lstm_forward(**case.inputs, backend="cuda")


def test_arrays_of_numpy_stay_on_the_cpu_unless_cuda_is_asked_for() -> None:
    case = make_case("lstm", 3, 2, 4, 5, np.float32)
    assert fastrnn.lstm_forward(**case.inputs)[2].backend == fastrnn.backends()[0] != "cuda"


def test_no_kernel_spills_registers_or_uses_local_memory(tmp_path: Path) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no nvcc")
    sources = ("-I", ROOT / "csrc", "-I", ROOT / "cuda", ROOT / "cuda" / "kernels.cu")
    options = ("-std=c++20", "-O3", "--expt-relaxed-constexpr", "-arch=sm_90a", "-Xptxas", "-v")
    said = run(nvcc, *options, "-c", *sources, "-o", tmp_path / "kernels.o")
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores", said)
    assert len(frames) > 10
    assert {int(stores) for _, stores in frames} == {0}


@pytest.mark.gpu
@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_gpu_matches_reference(cell: str, dtype: type, feature: str) -> None:
    case = make_case(cell, 11, 9, 6, 19, dtype, seed=2, **FEATURES[feature])
    forward, backward, _ = functions(fastrnn, cell)
    ref_forward, ref_backward, _ = functions(reference, cell)
    y, state, saved = forward(**case.inputs, backend="cuda")
    ref_y, ref_state, ref_saved = ref_forward(**case.inputs)
    assert saved.backend == "cuda"
    assert_close(y, ref_y, dtype, "forward", 11, name="y")
    for got, expected in zip(as_states(state), as_states(ref_state), strict=True):
        assert_close(got, expected, dtype, "forward", 11, name="state")
    gradients, expected_gradients = (
        backward(saved, **case.cotangents),
        ref_backward(ref_saved, **case.cotangents),
    )
    assert_gradients_close(gradients, expected_gradients, dtype, 11)
