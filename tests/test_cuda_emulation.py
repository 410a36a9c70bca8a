"""The CUDA backend on a machine without a GPU: cuda/ as it is, compiled for the host and run.

tests/cpp/cuda_emulation/ holds what stands in for the CUDA runtime, and the claims.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from commands import ROOT, attempt, program, run

EMULATION = ROOT / "tests" / "cpp" / "cuda_emulation"
FLAGS = ("-std=c++20", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", f"-I{ROOT / 'csrc'}")
SCALAR = ("-O2", "-DFASTRNN_ISA=scalar", '-DFASTRNN_ISA_HEADER="cpu/isa/scalar.hpp"')
BACKEND = (f"-I{EMULATION}", f"-I{ROOT / 'cuda'}")
WATCHED = ("-O1", "-g1", "-fsanitize=address")

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


@pytest.fixture(scope="module")
def run_emulated(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[Path], CompletedProcess[str]]:
    """Runs the claims on the CUDA sources of a folder."""
    compiler = program(os.environ.get("CXX", "c++"))
    folder = tmp_path_factory.mktemp("emulation")

    def compile_object(name: str, source: Path, *flags: str) -> Path:
        run(compiler, *FLAGS, *flags, "-c", source, "-o", folder / f"{name}.o")
        return folder / f"{name}.o"

    with ThreadPoolExecutor(2) as pool:
        objects = list(
            pool.map(
                lambda job: compile_object(*job),
                (
                    ("scalar", ROOT / "csrc/cpu/kernels.cpp", *SCALAR),
                    ("test", EMULATION / "test_cuda_emulation.cpp", *WATCHED, *BACKEND),
                    ("threads", ROOT / "csrc/cpu/threads.cpp", *WATCHED),
                    ("dispatch", ROOT / "csrc/dispatch.cpp", *WATCHED),
                    ("memory", ROOT / "csrc/memory.cpp", *WATCHED),
                    ("precision", ROOT / "csrc/precision.cpp", *WATCHED),
                    ("no_persistent", EMULATION / "no_persistent.cpp", *WATCHED, *BACKEND),
                ),
            )
        )

    built: list[Path] = []

    def run_folder(cuda: Path, **environment: str) -> CompletedProcess[str]:
        if built != [cuda]:
            kernels = compile_object(
                "cuda", cuda / "kernels.cu", *WATCHED, f"-I{EMULATION}", f"-I{cuda}", "-xc++"
            )
            link = ("-fsanitize=address", "-pthread", *objects, kernels, "-ldl")
            run(compiler, *link, "-o", folder / "test")
            built[:] = [cuda]
        return attempt(folder / "test", env=environment)

    return run_folder


def test_16_bit_floats_are_converted_as_the_hardware_does(tmp_path: Path) -> None:
    sources = (EMULATION / "test_values.cpp", ROOT / "csrc" / "cpu" / "threads.cpp")
    compiler, test = program(os.environ.get("CXX", "c++")), tmp_path / "test"
    run(compiler, *FLAGS, "-O1", "-pthread", f"-I{ROOT / 'cuda'}", *sources, "-o", test)
    assert run(test).count("ok ") == 5


def test_cuda_backend_holds_every_claim(
    run_emulated: Callable[[Path], CompletedProcess[str]],
) -> None:
    done = run_emulated(ROOT / "cuda")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("ok ") > 10


def test_products_by_cublas_give_the_same_results(
    run_emulated: Callable[..., CompletedProcess[str]], tmp_path: Path
) -> None:
    """By a library of its name that checks and computes as cuBLAS is specified to."""
    library = tmp_path / "libfake_cublas.so"
    shared = ("-O2", "-fPIC", "-shared", "-Wl,-soname,libcublas.so.13", f"-I{ROOT / 'cuda'}")
    compiler = program(os.environ.get("CXX", "c++"))
    run(compiler, *FLAGS, *shared, EMULATION / "fake_cublas.cpp", "-o", library)
    done = run_emulated(ROOT / "cuda", FAKE_CUBLAS=str(library))
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("ok ") == 9


@pytest.mark.parametrize("mutant", MUTANTS)
def test_claims_fail_for(
    mutant: str, run_emulated: Callable[[Path], CompletedProcess[str]], tmp_path: Path
) -> None:
    file, sound, broken, shows = MUTANTS[mutant]
    cuda = shutil.copytree(ROOT / "cuda", tmp_path / "cuda")
    source = (cuda / file).read_text()
    assert source.count(sound) == 1
    (cuda / file).write_text(source.replace(sound, broken))
    done = run_emulated(cuda)
    assert done.returncode != 0
    assert shows in done.stdout, done.stdout
