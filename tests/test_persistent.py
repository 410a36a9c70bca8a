"""The persistent CUDA kernels on a machine without a GPU.

Their own sources run on the host with a fiber a thread (tests/cpp/cuda_emulation/fibers.hpp):
warps, blocks and clusters wait for each other as on a device, in orders that a seed picks.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import registers
from commands import ROOT, attempt, program, run

EMULATION = ROOT / "tests" / "cpp" / "cuda_emulation"
FLAGS = ("-std=c++20", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", f"-I{ROOT / 'csrc'}")
WATCHED = ("-O1", "-g1", "-fsanitize=address")
SCALAR = ("-O0", "-DFASTRNN_ISA=scalar", '-DFASTRNN_ISA_HEADER="cpu/isa/scalar.hpp"')

# What a broken kernel looks like: file, what stands there, what takes its place, how it shows.
MUTANTS = {
    "blocks send before all of h is there": (
        "persistent/forward.cuh",
        "    sync_block();\n    fetch(s + 1);",
        "    fetch(s + 1);",
        "differs by",
    ),
    "one operand takes no turns": (
        "persistent/forward.cuh",
        "operands + (s + 1) % 2 * shape.operand.bytes",
        "operands + s % 2 * shape.operand.bytes",
        "FAILED",
    ),
    "sums are read before they are there": (
        "persistent/forward.cuh",
        "      sync_block();\n#pragma unroll\n      for (int pair = 0;",
        "#pragma unroll\n      for (int pair = 0;",
        "FAILED",
    ),
    "the wrong phase": ("persistent/data.cuh", "(step - 1) / 2 % 2", "step / 2 % 2", "FAILED"),
    "a barrier is not armed again": (
        "persistent/forward.cuh",
        "if (thread == 0) expect_bytes(barrier, bytes_of_others);",
        "",
        "deadlock",
    ),
    "h' flows through a reset": (
        "persistent/forward.cuh",
        "float sum = step.resets ? 0 : gh[i][g];",
        "float sum = gh[i][g];",
        "differs by",
    ),
    "gradient flows through a reset": (
        "persistent/backward.cuh",
        "next.resets ? 0 : gradients[Cell::slot_h(g)]",
        "gradients[Cell::slot_h(g)]",
        "differs by",
    ),
    "slots are read before they are there": (
        "persistent/backward.cuh",
        "if (size == 1) sync_block();",
        "",
        "FAILED",
    ),
    "slots take no turns": (
        "persistent/backward.cuh",
        "slots + turn % 2 * shape.slots",
        "slots + (turn + 1) % 2 * shape.slots",
        "FAILED",
    ),
}

Emulate = Callable[..., CompletedProcess[str]]


@pytest.fixture(scope="module")
def emulate(tmp_path_factory: pytest.TempPathFactory) -> Emulate:
    """Compiles claims of cuda_emulation/ with the CUDA sources of a folder, and runs them."""
    compiler = program(os.environ.get("CXX", "c++"))
    folder = tmp_path_factory.mktemp("emulation")

    def compile_object(source: Path, *flags: str) -> Path:
        result = folder / f"{source.stem}.o"
        run(compiler, *FLAGS, *flags, "-c", source, "-o", result)
        return result

    csrc = ROOT / "csrc"
    objects = [compile_object(csrc / "cpu" / "kernels.cpp", *SCALAR)]
    for name in ("cpu/threads", "dispatch", "memory", "no_cuda"):
        objects.append(compile_object(csrc / f"{name}.cpp", "-O1"))

    def compile_and_run(
        claims: str, *flags: str, cuda: Path = ROOT / "cuda", arguments: tuple[str, ...] = ()
    ) -> CompletedProcess[str]:
        binary = cuda.parent / claims if cuda != ROOT / "cuda" else folder / claims
        include = (f"-I{EMULATION}", f"-I{cuda}")
        source = EMULATION / f"{claims}.cpp"
        run(compiler, *FLAGS, *flags, *include, source, *objects, "-pthread", "-o", binary)
        return attempt(binary, *arguments)

    return compile_and_run


def test_emulated_operations_do_what_they_should_and_faults_show(emulate: Emulate) -> None:
    done = emulate("test_ops", *WATCHED)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("ok ") > 10


def test_persistent_kernels_match_the_scalar_backend(emulate: Emulate) -> None:
    done = emulate("test_persistent", "-O1")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("ok ") > 3


@pytest.mark.exhaustive
def test_every_persistent_kernel_matches_the_scalar_backend(emulate: Emulate) -> None:
    done = emulate("test_persistent", *WATCHED, "-DFASTRNN_ALL", arguments=("all",))
    assert done.returncode == 0, done.stdout


def test_claims_fail_for_mutants(emulate: Emulate, tmp_path: Path) -> None:
    def survives(mutant: str) -> str | None:
        file, sound, broken, shows = MUTANTS[mutant]
        cuda = shutil.copytree(ROOT / "cuda", tmp_path / mutant.replace(" ", "_") / "cuda")
        text = (cuda / file).read_text()
        assert text.count(sound) == 1, mutant
        (cuda / file).write_text(text.replace(sound, broken))
        done = emulate("test_persistent", "-O1", "-DFASTRNN_FEW", cuda=cuda)
        return None if done.returncode and shows in done.stdout else f"{mutant}: {done.stdout}"

    with ThreadPoolExecutor(2) as pool:
        assert not [text for text in pool.map(survives, MUTANTS) if text]


def check_registers(architecture: str, kernels: list[registers.Kernel]) -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not installed")
    committed = json.loads(registers.TABLE.read_text())[architecture]
    measured = registers.measured(architecture, kernels)
    worse = {name: got for name, got in measured.items() if got > committed[name]}
    assert not worse


def test_no_kernel_of_compute_capability_9_uses_local_memory() -> None:
    committed = json.loads(registers.TABLE.read_text())["90a"]
    assert len(committed) == len(registers.KERNELS)
    assert not [name for name, (_, local) in committed.items() if local]


def test_persistent_lstm_keeps_to_the_table_of_registers() -> None:
    kernels = [kernel for kernel in registers.KERNELS if kernel[1] == "Lstm"]
    check_registers("90a", [kernel for kernel in kernels if kernel[2] != "Narrow<Float16>"])


@pytest.mark.exhaustive
@pytest.mark.parametrize("architecture", registers.ARCHITECTURES)
def test_every_persistent_kernel_keeps_to_the_table_of_registers(architecture: str) -> None:
    check_registers(architecture, registers.KERNELS)
