"""Calls of the CUDA backend by its persistent kernels, on a machine without a GPU.

The sources run on the host with a fiber a thread (tests/cpp/cuda_emulation/fibers.hpp): warps,
blocks and clusters wait for each other as on a device, in orders that a seed picks.
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
WATCHED = ("-O1", "-g1", "-fsanitize=address")
SCALAR = ("-O0", "-DFASTRNN_ISA=scalar", '-DFASTRNN_ISA_HEADER="cpu/isa/scalar.hpp"')
CORE = ("cpu/threads", "dispatch", "memory", "precision")
SMALL_BLOCKS = "-DFASTRNN_CUDA_BLOCK=131072"  # several launches for some sequences

# What a broken kernel looks like: file, what stands there, what takes its place, how it shows.
MUTANTS = {
    "warps send before all of their h is there": (
        "persistent/exchange.cuh",
        "    sync_warp();\n    if (!has_words_",
        "    if (!has_words_",
        "FAILED",
    ),
    "one operand takes no turns": (
        "persistent/forward.cuh",
        "operands + (turn + 1) % 2 * shape.operand.bytes",
        "operands + turn % 2 * shape.operand.bytes",
        "FAILED",
    ),
    "sums are read before they are there": (
        "persistent/forward.cuh",
        "      sync_group(row_warp, Traits::kDepthWarps * kWarp);\n",
        "",
        "FAILED",
    ),
    "the wrong phase": ("persistent/data.cuh", "(step - 1) >> 1 & 1", "step >> 1 & 1", "FAILED"),
    "a barrier is not armed again": (
        "persistent/exchange.cuh",
        "if (thread == 0) expect_bytes(barrier, bytes_);",
        "static_cast<void>(thread);",
        "deadlock",
    ),
    "words of one turn in the place of the last": (
        "persistent/exchange.cuh",
        "store_word(words_ + turn % 2 * turn_words()",
        "store_word(words_ + (turn + 1) % 2 * turn_words()",
        "deadlock",
    ),
    "words that do not tell their turn": (
        "persistent/exchange.cuh",
        "wait_words(from, words, [turn](const Word16& word) {\n"
        "        return word.part[kParts] == static_cast<uint32_t>(turn);\n      });",
        "for (int j = 0; j < kAtATime; ++j) words[j] = from[j] ? *from[j] : Word16{};",
        "FAILED",
    ),
    "words are multiplied before they are there": (
        "persistent/exchange.cuh",
        "words[i].part[k];\n        }\n      }\n    }\n    sync_block();",
        "words[i].part[k];\n        }\n      }\n    }",
        "FAILED",
    ),
    "h' flows through a reset": (
        "persistent/forward.cuh",
        "float sum = step.resets() ? 0 : gh[i].of[g];",
        "float sum = gh[i].of[g];",
        "differs by",
    ),
    "gradient flows through a reset": (
        "persistent/backward.cuh",
        "now.resets() ? 0 : computed(gradients[i][Cell::slot_h(g)])",
        "computed(gradients[i][Cell::slot_h(g)])",
        "differs by",
    ),
    "slots are read before they are there": (
        "persistent/shares.cuh",
        "    if (size == 1) {\n      sync_block();",
        "    if (size == 1) {",
        "FAILED",
    ),
    "gate gradients are written while others multiply them": (
        "persistent/backward.cuh",
        "operands + turn % 2 * shape.operand.bytes",
        "operands",
        "FAILED",
    ),
    "slots take no turns": (
        "persistent/shares.cuh",
        "slots_ + turn % 2 * shape_.slots * shape_.slot +",
        "slots_ + (turn + 1) % 2 * shape_.slots * shape_.slot +",
        "FAILED",
    ),
    "gate gradients are multiplied before all are there": (
        "persistent/backward.cuh",
        "    if (s > 0) fetch(s - 1);\n    sync_block();",
        "    if (s > 0) fetch(s - 1);",
        "FAILED",
    ),
    "shares are summed before they are there": (
        "persistent/shares.cuh",
        "wait_words(from, got, [turn](const Word16& word) { return is_of(turn, word); });",
        "for (int j = 0; j < kAtATime; ++j) got[j] = from[j] ? *from[j] : Word16{};",
        "FAILED",
    ),
    "shares that tell turns modulo 2": (
        "persistent/shares.cuh",
        "for (int i = 0; i < 4; ++i) differs",
        "for (int i = 0; i < 1; ++i) differs",
        "FAILED",
    ),
    "shares of one turn in the place of the last": (
        "persistent/shares.cuh",
        "return ((turn % 2 * size + to)",
        "return ((0 * turn + to)",
        "FAILED",
    ),
    "the number of a turn comes before its shares": (
        "persistent/shares.cuh",
        "      store_word(at, word);",
        "      Word16 number = word;\n      for (uint32_t& part : number.part) part &= 1;\n"
        "      store_word(at, number);\n      store_word(at, word);",
        "FAILED",
    ),
    "a group begins before its shared memory is cleared": (
        "persistent/shares.cuh",
        "void meet() const { sync_block(); }",
        "void meet() const {}",
        "FAILED",
    ),
    "words of the launch before are left": (
        "persistent/launch.cuh",
        "static_cast<size_t>(groups * words_each) * sizeof(Word16)",
        "size_t{0}",
        "FAILED",
    ),
}

Compile = Callable[..., Path]


@pytest.fixture(scope="module")
def compile_object(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """Compiles one source into a folder, the module's own unless another is given."""
    compiler = program(os.environ.get("CXX", "c++"))
    own = tmp_path_factory.mktemp("emulation")

    def compile_one(
        source: Path, *flags: str, cuda: Path = ROOT / "cuda", folder: Path = own
    ) -> Path:
        include = (f"-I{EMULATION}", f"-I{cuda}")
        result = folder / f"{source.name}.o"
        run(compiler, *FLAGS, *flags, *include, "-xc++", "-c", source, "-o", result)
        return result

    return compile_one


def link(objects: list[Path], binary: Path) -> Path:
    compiler = program(os.environ.get("CXX", "c++"))
    run(compiler, *objects, "-pthread", "-ldl", "-o", binary)
    return binary


@pytest.fixture(scope="module")
def objects(compile_object: Compile) -> list[Path]:
    """The claims and what they need, but for the persistent kernels."""
    sources = [
        (ROOT / "cuda" / "kernels.cu", "-O1", SMALL_BLOCKS),
        (EMULATION / "test_persistent.cpp", "-O1"),
        (ROOT / "csrc" / "cpu" / "kernels.cpp", *SCALAR),
        *((ROOT / "csrc" / f"{name}.cpp", "-O1") for name in CORE),
    ]
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda job: compile_object(*job), sources))


def test_emulated_operations_do_what_they_should_and_faults_show(
    compile_object: Compile, tmp_path: Path
) -> None:
    sources = (EMULATION / "test_ops.cpp", ROOT / "csrc" / "cpu" / "threads.cpp")
    made = [compile_object(source, *WATCHED, folder=tmp_path) for source in sources]
    compiler = program(os.environ.get("CXX", "c++"))
    run(compiler, *made, "-fsanitize=address", "-pthread", "-o", tmp_path / "test")
    done = attempt(tmp_path / "test")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("ok ") > 10


def test_calls_by_persistent_kernels_match_the_scalar_backend(
    compile_object: Compile, objects: list[Path], tmp_path: Path
) -> None:
    persistent = compile_object(ROOT / "cuda" / "persistent.cu", "-O1")
    done = attempt(link([*objects, persistent], tmp_path / "test"))
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("ok ") == 14


@pytest.mark.exhaustive
def test_every_persistent_kernel_matches_the_scalar_backend(
    compile_object: Compile, objects: list[Path], tmp_path: Path
) -> None:
    persistent = compile_object(ROOT / "cuda" / "persistent.cu", "-O1")
    done = attempt(link([*objects, persistent], tmp_path / "test"), "all")
    assert done.returncode == 0, done.stdout


def test_claims_fail_for_mutants(
    compile_object: Compile, objects: list[Path], tmp_path: Path
) -> None:
    few = EMULATION / "few_persistent.cpp"

    def survives(mutant: str) -> str | None:
        file, sound, broken, shows = MUTANTS[mutant]
        folder = tmp_path / mutant.replace(" ", "_")
        cuda = shutil.copytree(ROOT / "cuda", folder / "cuda")
        text = (cuda / file).read_text()
        assert text.count(sound) == 1, mutant
        (cuda / file).write_text(text.replace(sound, broken))
        persistent = compile_object(few, "-O1", cuda=cuda, folder=folder)
        done = attempt(link([*objects, persistent], folder / "test"), "few")
        return None if done.returncode and shows in done.stdout else f"{mutant}: {done.stdout}"

    sound = attempt(link([*objects, compile_object(few, "-O1")], tmp_path / "sound"), "few")
    assert sound.returncode == 0, sound.stdout
    with ThreadPoolExecutor(2) as pool:
        assert not [text for text in pool.map(survives, MUTANTS) if text]
