"""The CUDA backend on a machine without a GPU: cuda/ compiled for the host and run.

tests/cpp/cuda_emulation/ holds what stands in for the CUDA runtime, and the claims.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from commands import ROOT, attempt, program, run

EMULATION = ROOT / "tests" / "cpp" / "cuda_emulation"
FLAGS = ("-std=c++20", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", f"-I{ROOT / 'csrc'}")
BACKEND = (f"-I{EMULATION}", f"-I{ROOT / 'cuda'}")
WATCHED = ("-g1", "-fsanitize=address")

# What a broken kernel looks like: file, what stands there, what takes its place, how it shows.
MUTANTS = {
    "gradient through a reset": (
        "backward.cuh",
        "launch(stream_, reset_kernel<Value>, units, seq_, dh, s);",
        "",
        "FAILED  double matches scalar double",
    ),
    "write beyond the last column": (
        "product.cuh",
        "if (row < p.M && column < p.N)",
        "if (row < p.M)",
        "AddressSanitizer: heap-buffer-overflow",
    ),
}


def sources(folder: Path) -> Path:
    """cuda/ without the options of the family, which tests/test_cuda_arrays.py runs: they take more
    than half of the compiler's time.
    """
    cuda = shutil.copytree(ROOT / "cuda", folder / "cuda")
    lines = (cuda / "kernels.cu").read_text().splitlines()
    kept = [line for line in lines if "kFamilyKernels" not in line]
    assert len(kept) == len(lines) - 2
    (cuda / "kernels.cu").write_text("\n".join(kept))
    return cuda


@pytest.fixture(scope="module")
def link_with(build: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, str], Path]:
    """Compiles the CUDA sources of a folder, optimised or not, to a program of the claims."""
    compiler = program(os.environ.get("CXX", "c++"))
    folder = tmp_path_factory.mktemp("emulation")

    def compile_object(source: Path, *flags: str) -> Path:
        result = folder / f"{source.name}.o"
        run(compiler, *FLAGS, *WATCHED, *flags, "-c", source, "-o", result)
        return result

    core = [
        ROOT / f"csrc/{name}.cpp" for name in ("cpu/threads", "dispatch", "memory", "precision")
    ]
    claims = [EMULATION / f"{name}.cpp" for name in ("test_cuda_emulation", "no_persistent")]
    with ThreadPoolExecutor(2) as pool:
        objects = list(
            pool.map(lambda source: compile_object(source, "-O1", *BACKEND), core + claims)
        )
    (scalar,) = build.glob("CMakeFiles/fastrnn_isa_scalar.dir/**/kernels.cpp.o")

    def link(cuda: Path, optimised: str) -> Path:
        emulated = (f"-I{EMULATION}", f"-I{cuda}", "-xc++")
        kernels = compile_object(cuda / "kernels.cu", optimised, *emulated)
        test = cuda.parent / "test"
        run(
            compiler,
            "-fsanitize=address",
            "-pthread",
            *objects,
            kernels,
            scalar,
            "-ldl",
            "-o",
            test,
        )
        return test

    return link


@pytest.fixture(scope="module")
def claims(
    link_with: Callable[[Path, str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return link_with(sources(tmp_path_factory.mktemp("sound")), "-O1")


def test_16_bit_floats_are_converted_as_the_hardware_does(tmp_path: Path) -> None:
    sources = (EMULATION / "test_values.cpp", ROOT / "csrc" / "cpu" / "threads.cpp")
    compiler, test = program(os.environ.get("CXX", "c++")), tmp_path / "test"
    run(compiler, *FLAGS, "-O1", "-pthread", f"-I{ROOT / 'cuda'}", *sources, "-o", test)
    assert run(test).count("ok ") == 5


def test_cuda_backend_holds_every_claim(claims: Path) -> None:
    done = attempt(claims)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("ok ") > 10


def test_products_by_cublas_give_the_same_results(claims: Path, tmp_path: Path) -> None:
    """By a library of its name that checks and computes as cuBLAS is specified to."""
    library = tmp_path / "libfake_cublas.so"
    shared = ("-O2", "-fPIC", "-shared", "-Wl,-soname,libcublas.so.13", f"-I{ROOT / 'cuda'}")
    compiler = program(os.environ.get("CXX", "c++"))
    run(compiler, *FLAGS, *shared, EMULATION / "fake_cublas.cpp", "-o", library)
    done = attempt(claims, env={"FAKE_CUBLAS": str(library)})
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("ok ") == 9


@pytest.mark.parametrize("mutant", MUTANTS)
def test_claims_fail_for(
    mutant: str, link_with: Callable[[Path, str], Path], tmp_path: Path
) -> None:
    file, sound, broken, shows = MUTANTS[mutant]
    cuda = sources(tmp_path)
    source = (cuda / file).read_text()
    assert source.count(sound) == 1
    (cuda / file).write_text(source.replace(sound, broken))
    done = attempt(link_with(cuda, "-O0"))
    assert done.returncode != 0
    assert shows in done.stdout, done.stdout
