"""The persistent CUDA kernels on a machine without a GPU.

Their own sources run on the host with a fiber a thread (tests/cpp/cuda_emulation/fibers.hpp):
warps, blocks and clusters wait for each other as on a device, in orders that a seed picks.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from commands import ROOT, attempt, program, run

EMULATION = ROOT / "tests" / "cpp" / "cuda_emulation"
FLAGS = ("-std=c++20", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", f"-I{ROOT / 'csrc'}")
WATCHED = ("-O1", "-g1", "-fsanitize=address")

Emulate = Callable[..., CompletedProcess[str]]


@pytest.fixture(scope="module")
def emulate(tmp_path_factory: pytest.TempPathFactory) -> Emulate:
    """Compiles claims of cuda_emulation/ with the CUDA sources of a folder, and runs them."""
    compiler = program(os.environ.get("CXX", "c++"))
    folder = tmp_path_factory.mktemp("emulation")

    def compile_and_run(
        claims: str, *arguments: str, cuda: Path = ROOT / "cuda"
    ) -> CompletedProcess[str]:
        binary = folder / f"{claims}{len(list(folder.iterdir()))}"
        include = (f"-I{EMULATION}", f"-I{cuda}")
        run(compiler, *FLAGS, *WATCHED, *include, EMULATION / f"{claims}.cpp", "-o", binary)
        return attempt(binary, *arguments)

    return compile_and_run


def test_emulated_operations_do_what_they_should_and_faults_show(emulate: Emulate) -> None:
    done = emulate("test_ops")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("ok ") > 10
