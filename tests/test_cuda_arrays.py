"""Arrays on a CUDA device without one: the extension module with its CUDA backend compiled for the
host, given arrays that pass for a device's.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from pathlib import Path

import pytest
from commands import ROOT, attempt, run

# whole stacks in one call, and packed sequences read where they lie, are the CPU's, which torch
# takes these tensors to be on
MODULES = "not nothing_is_kept and not packed"


@pytest.fixture(scope="module")
def site(build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package and that module."""
    with open(ROOT / "build" / "lock", "w") as lock:  # as tests/conftest.py does
        fcntl.flock(lock, fcntl.LOCK_EX)
        run("cmake", "--build", build, "--target", "core_emulated")
    (module,) = (build / "emulated").glob("_core*")
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "python" / "fastrnn", folder / "fastrnn")
    (original,) = build.glob("_core.*.so")
    shutil.copy(module, folder / "fastrnn" / original.name)
    return folder


def run_tests(site: Path, *arguments: str, **environment: str) -> str:
    done = attempt(
        *(sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", *arguments),
        env={"PYTHONPATH": f"{site}{os.pathsep}{ROOT / 'tests'}", **environment},
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_arrays_on_a_device(site: Path) -> None:
    assert int(run_tests(site, "tests/cuda_arrays.py").split(" passed")[0].split()[-1]) > 50


def test_arrays_on_a_device_with_clusters(site: Path) -> None:
    """The same by the persistent kernels, where they have the cell and dtype."""
    chosen = "reference and float32 or path or elsewhere or strided or range"
    said = run_tests(site, "tests/cuda_arrays.py", "-k", chosen, EMULATED_CAPABILITY="9")
    assert int(said.split(" passed")[0].split()[-1]) > 20


def test_torch_modules_on_a_device(site: Path) -> None:
    """The tests of the modules themselves, every tensor on the device."""
    said = run_tests(site, "-p", "fake_cuda", "tests/test_torch_modules.py", "-k", MODULES)
    assert int(said.split(" passed")[0].split()[-1]) > 50


def test_second_derivatives_on_a_device(site: Path) -> None:
    chosen = "gradient_penalty or third or cells_are or refused or (second or forward_mode) and "
    chosen += "(stacked or marks or packed or projected or layer_norm_state or _dropout)"
    file = "tests/test_torch_derivatives.py"
    said = run_tests(site, "-p", "fake_cuda", file, "-k", chosen, FAKE_CUDA_TENSORS="1")
    assert int(said.split(" passed")[0].split()[-1]) > 40


def test_jax_on_a_device(site: Path) -> None:
    pytest.importorskip("jax")
    assert int(run_tests(site, "tests/cuda_jax.py").split(" passed")[0].split()[-1]) == 7
