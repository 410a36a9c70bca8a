"""The script for a short slot on a GPU, as far as it goes without one: programs that stand in for
the GPU's show that it goes on after a failure, keeps what it has and says what failed.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
import venv
from pathlib import Path
from types import ModuleType

import pytest
from commands import ROOT

STANDINS = {
    "nvidia-smi": 'case "$*" in -L) echo "GPU 0: a stand-in";; *name,driver*) echo "A card, 580";; '
    "*compute_cap*) echo 9.0;; esac",
    "nvcc": 'while (($#)); do case "$1" in -o) cp /bin/true "$2";; esac; shift; done',
    "cmake": 'case "$1" in -S) mkdir -p "$4" && touch "$4/_core.x.so"; echo "$*";; esac',
    "python3": 'case "$*" in *gpu_check.py*check.json*) echo "a case"; echo wrong; exit 3;; '
    '*gpu_bench.py*--seconds*) echo "path ${FASTRNN_CUDA_PATH-}"; sleep 30;; '
    '*--table*) echo "| a table |";; esac',
    "compute-sanitizer": "true",
}


def run_slot(
    programs: dict[str, str], folder: Path, *steps: str, **more: str
) -> subprocess.CompletedProcess:
    stand_ins = folder / "bin"
    stand_ins.mkdir()
    for name, body in programs.items():
        (stand_ins / name).write_text(f"#!/bin/bash\n{body}\n")
        (stand_ins / name).chmod(0o755)
    script = (ROOT / "tools" / "gpu_slot.sh").read_text().replace("step bench 200", "step bench 1")
    copy = folder / "tree" / "tools" / "gpu_slot.sh"
    copy.parent.mkdir(parents=True)
    copy.write_text(script)
    (folder / "tree" / "python" / "fastrnn").mkdir(parents=True)
    return subprocess.run(
        ["bash", copy, folder / "out", *steps],
        env={**os.environ, "PATH": f"{stand_ins}:/usr/bin:/bin", **more},
        capture_output=True,
        text=True,
    )


def statuses(folder: Path) -> dict[str, int]:
    lines = (folder / "out" / "steps.jsonl").read_text().splitlines()
    return {step["step"]: step["status"] for step in map(json.loads, lines)}


def test_without_a_gpu_it_says_what_is_missing(tmp_path: Path) -> None:
    done = run_slot({}, tmp_path, PYTHON="no-such-python")
    assert done.returncode == 2
    assert "cannot run here: missing" in done.stderr
    assert "[nvidia-smi]" in done.stderr
    assert "[no-such-python]" in done.stderr
    assert not (tmp_path / "out").exists()


def test_it_says_at_once_which_modules_of_python_are_missing(tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False)
    start = time.monotonic()
    done = run_slot(STANDINS, tmp_path, PYTHON=str(tmp_path / "venv" / "bin" / "python"))
    assert time.monotonic() - start < 3
    assert done.returncode == 2
    assert "[Python module numpy] [Python module pybind11] [Python module" in done.stderr


def test_an_old_pybind11_counts_as_missing(tmp_path: Path) -> None:
    for name in ("numpy", "pybind11", "safetensors", "threadpoolctl", "tqdm"):
        (tmp_path / "packages" / name).mkdir(parents=True)
    metadata = tmp_path / "packages" / "pybind11-2.13.6.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: pybind11\nVersion: 2.13.6\n")
    packages = {"PYTHON": sys.executable, "PYTHONPATH": str(tmp_path / "packages")}
    done = run_slot(STANDINS, tmp_path, **packages)
    assert done.returncode == 2
    assert done.stderr.endswith("missing [pybind11 3.0.1: there is 2.13.6]\n")


def test_with_the_programs_but_no_gpu_it_says_so(tmp_path: Path) -> None:
    done = run_slot({**STANDINS, "nvidia-smi": "true"}, tmp_path)
    assert done.returncode == 2
    assert done.stderr == "tools/gpu_slot.sh: cannot run here: nvidia-smi lists no GPU\n"


def test_a_step_that_fails_or_hangs_does_not_stop_the_others(tmp_path: Path) -> None:
    done = run_slot(STANDINS, tmp_path)
    status = statuses(tmp_path)
    assert status["check"] == 3
    assert status["bench"] == 124  # out of time
    assert status["persistent"] == 127  # the stand-in for cmake builds none
    passed = ("versions", "build", "check-steps", "memcheck", "racecheck", "table", "probe")
    assert {status[name] for name in passed} == {0}
    assert (tmp_path / "out" / "table.md").read_text() == "| a table |\n"
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "\na case\nwrong\n=== memcheck: " in log
    assert "-DFASTRNN_CUDA_ARCHITECTURES=90a-real" in log
    assert "\npath steps\n" in log  # after the persistent kernels have failed
    assert done.returncode == 1
    said = done.stdout.splitlines()
    assert said[0] == "A card, 580"
    assert "| a table |" in said
    assert said[said.index("--- check, status 3") :][:3] == [
        "--- check, status 3",
        "a case",
        "wrong",
    ]
    assert "failed: persistent check bench " in said[-1]


def test_it_leaves_few_files_and_the_build_outside_of_them(tmp_path: Path) -> None:
    run_slot(STANDINS, tmp_path)
    assert {file.name for file in (tmp_path / "out").iterdir()} <= {
        *("log.txt", "steps.jsonl", "check.json", "check-steps.json", "bench.jsonl", "table.md"),
        *("paths.jsonl", "probe.jsonl"),
    }
    assert (tmp_path / "tree" / "build" / "gpu_slot" / "site" / "fastrnn").is_dir()


def test_the_steps_that_are_named_are_all_that_is_run_after_the_build(tmp_path: Path) -> None:
    done = run_slot(STANDINS, tmp_path, "probe", "memcheck")
    assert list(statuses(tmp_path)) == ["build", "memcheck", "probe"]
    assert done.returncode == 0
    assert "every step passed" in done.stdout.splitlines()[-1]


def test_what_was_built_elsewhere_is_taken_as_it_lies(tmp_path: Path) -> None:
    done = run_slot(STANDINS, tmp_path, "memcheck", SLOT_BUILT="1")
    assert list(statuses(tmp_path)) == ["memcheck"]
    assert done.returncode == 0


def test_it_ends_in_its_time_whatever_hangs(tmp_path: Path) -> None:
    hanging = {**STANDINS, "compute-sanitizer": "sleep 60"}
    start = time.monotonic()
    done = run_slot(hanging, tmp_path, SLOT_SECONDS="8")
    assert time.monotonic() - start < 20
    status = statuses(tmp_path)
    assert status["build"] == 0
    assert status["memcheck"] == status["racecheck"] == status["table"] == 124
    assert "=== racecheck: " in (tmp_path / "out" / "log.txt").read_text()
    assert done.stdout.count("no time is left") > 1
    assert done.returncode == 1


@pytest.fixture(scope="module")
def benchmarks() -> tuple[ModuleType, ModuleType]:
    pytest.importorskip("torch")
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    modules = importlib.import_module("gpu_cases"), importlib.import_module("gpu_bench")
    monkeypatch.undo()
    return modules


def test_each_case_has_a_name_of_its_own_and_every_kind_comes_early(
    benchmarks: tuple[ModuleType, ModuleType],
) -> None:
    cases = benchmarks[0].cases()
    assert len({case.name for case in cases}) == len(cases)
    early = cases[:150]
    assert {case.cell for case in early} == {"lstm", "gru", "rnn"}
    assert {case.dtype for case in early} == {"float16", "bfloat16", "tf32", "float32"}
    assert {case.layers for case in early} == {1, 2, 4}
    assert {case.hidden for case in early} >= {64, 2048}
    assert any(case.packed for case in early)
    assert any(case.bidirectional for case in early)


def test_table_has_a_row_for_each_case_and_mode_that_was_measured(
    benchmarks: tuple[ModuleType, ModuleType],
) -> None:
    records = [
        {"case": "a", "mode": "infer", "library": "torch", "ms": [1, 2.0, 3]},
        {"case": "a", "mode": "infer", "library": "fastrnn", "ms": [0.4, 0.5, 0.6]},
        {"case": "a", "mode": "train", "library": "torch", "ms": [1, 4.0, 5]},
        {"case": "a", "mode": "train", "library": "fastrnn", "problem": "RuntimeError"},
    ]
    *_, infer, train = benchmarks[1].table(records).splitlines()
    assert infer == "| a | infer | 2.000 | 0.500 | 4.00 |"
    assert train == "| a | train | 4.000 | - | - |"
