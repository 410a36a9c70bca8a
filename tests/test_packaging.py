"""What is shipped, what an old processor runs, what the build says where something is missing."""

from __future__ import annotations

import importlib.metadata
import re
import sys
import tarfile
from pathlib import Path

import pytest
from commands import ROOT, attempt, program, run

from fastrnn import _core


def test_sdist_holds_the_tracked_files_and_nothing_else(tmp_path: Path) -> None:
    tracked = attempt("git", "ls-files", "--cached", "--others", "--exclude-standard")
    if tracked.returncode:
        pytest.skip("not a git checkout")
    wanted = {f for f in tracked.stdout.splitlines() if not f.startswith(".ci/")}
    build = "import sys; from scikit_build_core.build import build_sdist; build_sdist(sys.argv[1])"
    run(sys.executable, "-c", build, tmp_path)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        shipped = {name.partition("/")[2] for name in tar.getnames()}
    assert shipped - {"PKG-INFO"} == {f for f in wanted if (ROOT / f).exists()}


def test_installed_files_are_the_package_its_metadata_and_its_command() -> None:
    files = importlib.metadata.files("fastrnn")
    assert files
    names = {f.as_posix() for f in files if "__pycache__" not in f.parts}
    stray = {
        n for n in names if not re.match(r"fastrnn(-[\d.]+\.dist-info)?/|\.\./.*bin/fastrnn$", n)
    }
    assert not stray
    assert {"fastrnn/py.typed", "fastrnn/_core.pyi"} <= names
    tree = {f"fastrnn/{p.relative_to(ROOT / 'python/fastrnn').as_posix()}" for p in python_files()}
    assert tree == {n for n in names if n.startswith("fastrnn/") and n.endswith(".py")}


def python_files() -> list[Path]:
    return sorted((ROOT / "python" / "fastrnn").rglob("*.py"))


def test_installed_module_is_stripped() -> None:
    assert "\n.symtab" not in re.sub(
        " +", "\n", run("objdump", "--section-headers", _core.__file__)
    )


def test_version_is_that_of_pyproject_toml() -> None:
    declared = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert declared
    assert importlib.metadata.version("fastrnn") == declared[1]
    assert run("fastrnn", "--version").strip() == f"fastrnn {declared[1]}"


# ------------------------------------------------------------------------------ other processors

SELF_CHECK = """
import numpy as np, fastrnn
rng = np.random.default_rng(0)
x, w_ih, w_hh = rng.normal(size=(5, 3, 4)), rng.normal(size=(36, 4)), rng.normal(size=(36, 9))
for module in (fastrnn, fastrnn.reference):
    y, (h_n, c_n), saved = module.lstm_forward(x, w_ih, w_hh)
    gradients = module.lstm_backward(saved, np.ones_like(y))
    print(repr((y.sum(), c_n.sum(), gradients.dw_hh.sum())))
print(fastrnn.backends())
"""


@pytest.mark.emulator
@pytest.mark.parametrize(
    ("processor", "backends"), [("Nehalem", ["scalar"]), ("Haswell", ["avx2", "scalar"])]
)
def test_an_older_processor_gets_the_code_that_it_can_run(
    processor: str, backends: list[str], tmp_path: Path
) -> None:
    emulator = program("qemu-x86_64")
    printed = run(emulator, "-cpu", processor, sys.executable, "-c", SELF_CHECK, cwd=tmp_path)
    compiled, expected, chosen = printed.splitlines()[-3:]
    assert eval(chosen) == backends
    numbers = [float(n) for n in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", compiled)]
    wanted = [float(n) for n in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", expected)]
    assert len(numbers) == 3
    assert numbers == pytest.approx(wanted, rel=1e-10)


@pytest.mark.emulator
def test_cpp_tests_pass_on_64_bit_arm() -> None:
    program("qemu-aarch64")
    program("aarch64-linux-gnu-g++")
    run("cmake", "--preset", "neon")
    run("cmake", "--build", "--preset", "neon")
    run("ctest", "--preset", "neon")


# ------------------------------------------------------------------------------ what the build says


def configure(tmp_path: Path, *options: str, **env: str) -> str:
    command = ("cmake", "-S", ROOT, "-B", tmp_path, f"-DPython_EXECUTABLE={sys.executable}")
    done = attempt(*command, *options, env=env)
    assert done.returncode, done.stdout
    return " ".join(done.stdout.split())


def test_without_a_compiler_the_message_says_what_to_install(tmp_path: Path) -> None:
    said = configure(tmp_path, CXX="there-is-no-such-compiler")
    assert "fastrnn: no working C++ compiler found. Install one (Debian/Ubuntu: apt install" in said


def test_without_python_headers_the_message_says_what_to_install(tmp_path: Path) -> None:
    said = configure(tmp_path, f"-DPython_INCLUDE_DIR={tmp_path}")
    assert "fastrnn: Python.h not found. Install the Python headers (Debian/Ubuntu: apt ins" in said


def test_cuda_on_without_nvcc_fails_and_says_where_it_was_looked_for(tmp_path: Path) -> None:
    nvcc = "there-is-no-such-nvcc"
    said = configure(tmp_path, "-DFASTRNN_CUDA=ON", CUDACXX=nvcc)
    assert f"fastrnn: FASTRNN_CUDA=ON, but {nvcc} cannot build a program" in said


def test_an_unknown_cuda_mode_fails_and_lists_the_modes(tmp_path: Path) -> None:
    said = configure(tmp_path, "-DFASTRNN_CUDA=perhaps")
    assert "FASTRNN_CUDA must be AUTO, ON, OFF or PYPI, got 'perhaps'" in said
