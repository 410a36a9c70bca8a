"""The CUDA backend: what it says without a GPU, what ptxas makes of its kernels, and, on a GPU,
that it matches the reference.
"""

from __future__ import annotations

import importlib
import json
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import ptxas
import pytest
from commands import ROOT, attempt, run
from family import EVERY_ONE, Case, alone, assert_agrees
from shapes import CELLS, DTYPES, FEATURES, as_states, functions, make_case
from tolerances import assert_close, assert_gradients_close

import fastrnn
from fastrnn import _core, reference

HAS_GPU = "cuda" in fastrnn.backends()


def test_without_a_gpu_cuda_is_refused_with_the_reason_of_this_build() -> None:
    if HAS_GPU:
        pytest.skip("there is a GPU")
    device_code = b".nv_fatbin" in Path(_core.__file__).read_bytes()
    reason = "no CUDA device" if device_code else "fastrnn was built without CUDA"
    case = make_case("lstm", 3, 2, 4, 5, np.float32)
    with pytest.raises(ValueError, match=f"backend 'cuda' cannot run here: {reason}$"):
        fastrnn.lstm_forward(**case.inputs, backend="cuda")


def test_arrays_of_numpy_stay_on_the_cpu_unless_cuda_is_asked_for() -> None:
    case = make_case("lstm", 3, 2, 4, 5, np.float32)
    assert fastrnn.lstm_forward(**case.inputs)[2].backend == fastrnn.backends()[0] != "cuda"


@pytest.mark.parametrize(
    ("said", "meant"), [("", "strict"), ("strict", "strict"), ("tf32", "tf32")]
)
def test_precision_of_float32_comes_from_the_environment_or_is_strict(
    said: str, meant: str
) -> None:
    code = "import fastrnn; fastrnn.show_config()"
    shown = run(sys.executable, "-c", code, env={"FASTRNN_FLOAT32_PRECISION": said})
    assert re.search(rf"^float32 on a GPU +{meant}$", shown, re.M)


def test_precision_of_float32_can_be_set_and_nothing_else_can() -> None:
    assert fastrnn.get_float32_precision() == "strict"
    fastrnn.set_float32_precision("tf32")
    try:
        assert fastrnn.get_float32_precision() == "tf32"
        message = "argument 'precision' must be 'strict' or 'tf32', got 'bf16'"
        with pytest.raises(ValueError, match=f"set_float32_precision: {message}"):
            fastrnn.set_float32_precision("bf16")  # type: ignore[arg-type]
        assert fastrnn.get_float32_precision() == "tf32"
    finally:
        fastrnn.set_float32_precision("strict")
    done = attempt(
        *(sys.executable, "-c", "import fastrnn; fastrnn.get_float32_precision()"),
        env={"FASTRNN_FLOAT32_PRECISION": "TF32"},
    )
    assert "FASTRNN_FLOAT32_PRECISION must be 'strict' or 'tf32', got 'TF32'" in done.stdout


# ---------------------------------------------------------------------------------------- nvcc


@pytest.fixture(scope="module")
def nvcc() -> str:
    path = shutil.which("nvcc")
    if path is None:
        pytest.skip("no nvcc")
    return path


def check_usage(nvcc: str, architecture: str, source: Path, folder: Path) -> set[str]:
    """No local memory and no more registers than in the table; the kernels' names."""
    if "release 13.0" not in run(nvcc, "--version"):
        pytest.skip("the table of registers is of nvcc 13.0")
    found = ptxas.usage(nvcc, architecture, source, folder)
    table = json.loads(ptxas.TABLE.read_text())[architecture]
    assert set(found) <= set(table), "new kernels: python tests/ptxas.py"
    assert not {name: local for name, (_, local) in found.items() if local}
    more = {name: (table[name][0], now) for name, (now, _) in found.items() if now > table[name][0]}
    assert not more, f"more registers than in the table: {more}"
    return set(found)


@pytest.mark.parametrize("architecture", ptxas.SOURCES)
def test_every_kernel_is_as_in_the_table_of_registers_and_spills_nothing(
    architecture: str, nvcc: str, tmp_path: Path
) -> None:
    found = check_usage(nvcc, architecture, ptxas.CUDA / "kernels.cu", tmp_path)
    table = json.loads(ptxas.TABLE.read_text())[architecture]
    assert found == {name for name in table if "persistent::" not in name}
    # two blocks of 256 threads on a multiprocessor
    assert max(table[name][0] for name in found) <= 128


@pytest.mark.parametrize("architecture", ["90a", "100"])
def test_persistent_kernels_of_one_cell_and_dtype_are_as_in_the_table(
    architecture: str, nvcc: str, tmp_path: Path
) -> None:
    few = ROOT / "tests" / "cpp" / "cuda_emulation" / "few_persistent.cpp"
    assert len(check_usage(nvcc, architecture, few, tmp_path)) == 10


@pytest.mark.exhaustive
@pytest.mark.parametrize("architecture", ["90a", "100"])
def test_every_persistent_kernel_is_as_in_the_table(
    architecture: str, nvcc: str, tmp_path: Path
) -> None:
    found = check_usage(nvcc, architecture, ptxas.CUDA / "persistent.cu", tmp_path)
    table = json.loads(ptxas.TABLE.read_text())[architecture]
    assert found == {name for name in table if "persistent::" in name}


def test_no_kernel_in_the_table_has_local_memory() -> None:
    table = json.loads(ptxas.TABLE.read_text())
    assert set(table) == set(ptxas.SOURCES)
    assert not [name for of in table.values() for name, (_, local) in of.items() if local]


def test_a_build_beside_nvcc_has_cuda_unasked(nvcc: str, tmp_path: Path) -> None:
    said = run("cmake", "-S", ROOT, "-B", tmp_path, "-G", "Ninja", "-DFASTRNN_PYTHON=OFF")
    assert "fastrnn: CPU + CUDA" in said


# ---------------------------------------------------------------------------------------- a GPU


@pytest.fixture(scope="module")
def gpu_check() -> ModuleType:
    """The script for a machine with a GPU."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module = importlib.import_module("gpu_check")
    monkeypatch.undo()
    return module


@pytest.mark.parametrize("error", [0, 1e-3])
def test_script_for_a_gpu_fails_for_a_wrong_backend_alone(
    error: float, gpu_check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = fastrnn.gru_backward

    def wrong(*arguments: Any, **options: Any) -> fastrnn.GRUGradients:
        gradients = right(*arguments, **options)
        gradients.dw_hh[-1, -1] += error * np.abs(gradients.dw_hh).max()
        return gradients

    monkeypatch.setattr(fastrnn, "gru_backward", wrong)
    output = tmp_path / "results.json"
    status = gpu_check.main([str(output), "--backend", "scalar", "--only", "T11B9I6H19 all"])
    report = json.loads(output.read_text())
    failed = {record["case"].split()[0] for record in report["records"] if record["problems"]}
    assert failed == ({"gru", "gru_reset_before"} if error else set())
    assert status == bool(error)
    assert report["cases"] == 2 * len(CELLS) * len(DTYPES)


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


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("cell", "feature"), EVERY_ONE, ids=["-".join(e) for e in EVERY_ONE])
def test_gpu_matches_reference_with_each_option(cell: str, feature: str, dtype: type) -> None:
    def of_reference(given: Case) -> dict[str, Any]:
        return given.results(reference)

    for H in (7, 300):
        case = alone(cell, feature, dtype, seed=H, H=H)
        got = case.results(fastrnn, backend="cuda")
        assert_agrees(got, of_reference(case), of_reference, (case,), "", case.name)


@pytest.mark.gpu
def test_calls_that_come_again_and_captured_ones_give_the_same_bits() -> None:
    torch = pytest.importorskip("torch")
    lstm = importlib.import_module("fastrnn.torch").LSTM(32, 48).cuda()
    x = torch.randn(20, 4, 32, device="cuda")
    with torch.no_grad():
        results = [lstm(x)[0].cpu() for _ in range(4)]  # from a graph of fastrnn's before the last
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y, _ = lstm(x)
        graph.replay()
        results.append(y.cpu())
    assert all(torch.equal(result, results[0]) for result in results)
