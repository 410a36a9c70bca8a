"""The code's own rules: linters, direction of dependency, instruction sets apart, stub, words."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import resolve_name
from pathlib import Path

import pytest
from commands import ROOT, attempt, run

import fastrnn
from fastrnn import _core

PACKAGE = ROOT / "python" / "fastrnn"
CXX = sorted(
    path
    for folder in ("csrc", "cuda", "tests/cpp")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".hpp", ".cpp", ".cu", ".cuh"}
)
PYTHON = sorted(PACKAGE.rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# ------------------------------------------------------------------------------------------ linters


@pytest.mark.parametrize(
    "command",
    [
        ("ruff", "check", "."),
        ("ruff", "format", "--check", "."),
        ("mypy",),
        ("clang-format", "--dry-run", "--Werror", *map(relative, CXX)),
    ],
    ids=["ruff check", "ruff format", "mypy --strict", "clang-format"],
)
def test_linter_finds_nothing(command: tuple[str, ...]) -> None:
    run(*command)


def test_clang_tidy_finds_nothing(build: Path, tmp_path: Path) -> None:
    compiled = json.loads((build / "compile_commands.json").read_text())
    # kernels.cpp takes minutes: for the best instruction set alone, which comes last
    once = {entry["file"]: entry for entry in compiled}
    (tmp_path / "compile_commands.json").write_text(json.dumps([*once.values()]))
    sources = sorted({Path(file) for file in once} & set(CXX))
    assert len(sources) > 5
    with ThreadPoolExecutor(2) as pool:
        results = pool.map(
            lambda path: attempt("clang-tidy", "--quiet", "-p", tmp_path, path), sources
        )
        findings = "\n".join(done.stdout for done in results if done.returncode)
    assert not findings, findings


# -------------------------------------------------------------------------- direction of dependency


@pytest.mark.parametrize(
    ("claim", "pattern", "allowed"),
    [
        ("pybind11 and Python.h in csrc/bindings/ alone", r"pybind11|Python\.h", "csrc/bindings/"),
        ("CUDA headers in cuda/ alone", r"cuda|cublas|cooperative_groups|nv_?bf16|mma\.h", "cuda/"),
        ("no framework's headers", r"torch/|ATen/|xla/|jax|onnx", "nowhere"),
    ],
)
def test_included_headers(claim: str, pattern: str, allowed: str) -> None:
    found = [
        f"{relative(path)}: {line}"
        for path in CXX
        for line in path.read_text().splitlines()
        if re.match(rf'\s*#\s*include\s*[<"].*({pattern})', line)
        and not relative(path).startswith(allowed)
    ]
    assert not found, f"{claim}: {found}"


def test_files_of_one_instruction_set_include_no_standard_library_of_cxx() -> None:
    """A template instantiated with AVX-512 flags could replace the baseline's copy at link time."""
    shared = [ROOT / "csrc" / "math.hpp", *(ROOT / "csrc" / "cells").glob("*.hpp")]
    kernels = [p for p in (ROOT / "csrc" / "cpu").rglob("*") if p.suffix and p.stem != "threads"]
    vectors, c = {"immintrin.h", "arm_neon.h", "cpuid.h"}, {"sched.h", "stdint.h", "string.h"}
    allowed = vectors | c | {"sys/syscall.h", "unistd.h"}
    found = {
        f"{relative(path)}: <{header}>"
        for path in [*shared, *kernels]
        for header in re.findall(r"^\s*#\s*include\s*<(.*)>", path.read_text(), re.MULTILINE)
        if header not in allowed
    }
    assert kernels
    assert not found


def imported_modules(path: Path) -> set[str]:
    package = ".".join(path.relative_to(PACKAGE.parent).parent.parts)
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = resolve_name("." * node.level + (node.module or ""), package)
            names |= {f"{origin}.{alias.name}" for alias in node.names}
    return names


FRAMEWORKS = {"torch", "jax", "flax", "keras", "tensorflow", "onnx", "onnxruntime", "openvino"}
HOMES = {"jax": "flax", "onnxruntime": "onnx"}  # besides their own
FREE = {"bench", "examples"}


def test_frameworks_are_imported_in_their_own_folder_alone() -> None:
    """The exceptions: the benchmark, which runs the peers, and the programs of the lecture."""
    found = [
        f"{relative(path)} imports {module}"
        for path in PYTHON
        for module in sorted({name.split(".")[0] for name in imported_modules(path)} & FRAMEWORKS)
        if path.relative_to(PACKAGE).parts[0] not in {module, HOMES.get(module), *FREE}
    ]
    assert not found


def test_reference_imports_numpy_and_itself_alone() -> None:
    files = sorted((PACKAGE / "reference").glob("*.py"))
    assert files
    found = [
        f"{relative(path)} imports {name}"
        for path in files
        for name in sorted(imported_modules(path))
        if name.split(".")[0] not in sys.stdlib_module_names | {"numpy"}
        and not name.startswith("fastrnn.reference.")
    ]
    assert not found


def test_import_fastrnn_imports_no_framework_and_no_plotting() -> None:
    code = "import sys, fastrnn; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = set(run(sys.executable, "-c", code, cwd=Path("/")).split())
    assert "fastrnn" in loaded
    assert not loaded & (FRAMEWORKS | {"matplotlib", "scipy"})


# ---------------------------------------------------------------------- instruction sets kept apart


def isa_objects(build: Path) -> dict[str, Path]:
    pattern = "CMakeFiles/fastrnn_isa_*.dir/csrc/cpu/*.cpp.o"
    return {re.search(r"fastrnn_isa_(\w+)\.dir", str(p))[1]: p for p in build.glob(pattern)}  # type: ignore[index]


VECTOR_REGISTER = re.compile(r"%[yz]mm|%k[0-7]\b|\bv[a-z0-9]+\s.*%xmm")


def functions_with_vector_code(disassembly: str) -> set[str]:
    """Names of functions that use AVX registers or VEX-encoded instructions."""
    found, name = set(), ""
    for line in disassembly.splitlines():
        if header := re.match(r"[0-9a-f]+ <(.*)>:$", line):
            name = header[1]
        elif VECTOR_REGISTER.search(line):
            found.add(name)
    return found


def disassemble(path: Path) -> str:
    return run("objdump", "--disassemble", "--demangle", "--no-show-raw-insn", path)


def test_the_module_has_a_backend_for_each_object_of_an_instruction_set(build: Path) -> None:
    assert set(_core.backends(compiled=True)) - {"cuda"} == set(isa_objects(build)) > {"scalar"}


def test_each_instruction_set_exports_its_table_and_nothing_else(build: Path) -> None:
    for isa, path in isa_objects(build).items():
        symbols = run("nm", "--demangle", "--defined-only", "--extern-only", path).split("\n")
        exported = [re.sub(r"^[0-9a-f]* ", "", line) for line in symbols if line]
        assert exported == [f"T fastrnn::kernel_table_{isa}()"]


def test_no_code_of_an_instruction_set_runs_when_the_module_is_loaded(build: Path) -> None:
    for isa, path in isa_objects(build).items():
        assert ".init_array" not in run("objdump", "--section-headers", path), isa


def test_vector_instructions_occur_in_functions_of_their_instruction_set_alone(build: Path) -> None:
    (module,) = build.glob("_core.*.so")
    with_vector_code = functions_with_vector_code(disassemble(module))
    # objdump leaves the longest names as they are
    own = r"::(avx2|avx512|amx|fixed)::|_GLOBAL__N_1(4avx2|6avx512|3amx|5fixed)"
    leaked = {name for name in with_vector_code if not re.search(own, name)}
    assert not leaked
    if "avx2" in isa_objects(build):
        assert with_vector_code, "nothing was found where something must be: the pattern is wrong"


EARLY = ("supported()", "unit_supported()", "unit_granted()", "bytes_supported()", "Table::Table()")


def test_what_runs_before_the_processor_is_known_uses_no_vector_register(build: Path) -> None:
    for isa, path in isa_objects(build).items():
        text = disassemble(path)
        early = {
            *(f"fastrnn::(anonymous namespace)::{isa}::{name}" for name in EARLY),
            f"fastrnn::kernel_table_{isa}()",
        }
        defined = set(re.findall(r"^[0-9a-f]+ <(.*)>:$", text, re.MULTILINE))
        assert f"fastrnn::kernel_table_{isa}()" in defined
        assert not functions_with_vector_code(text) & early


def test_a_leak_between_instruction_sets_would_be_seen(tmp_path: Path) -> None:
    """The checks above, on the classic mistake: a header's inline function in an AVX2 object."""
    if "avx2" not in _core.backends(compiled=True):
        pytest.skip("another architecture")
    source = tmp_path / "leak.cpp"
    source.write_text(
        "inline float sum(const float* p) {\n"
        "  float s = 0;\n"
        "  for (int i = 0; i < 64; ++i) s += p[i];\n"
        "  return s;\n"
        "}\n"
        "float table(const float* p);\n"
        "float table(const float* p) { return sum(p); }\n"
    )
    flags = ("-c", "-O3", "-mavx2", "-fno-inline", "-o", tmp_path / "leak.o")
    run("c++", *flags, source)
    exported = run("nm", "--defined-only", "--extern-only", tmp_path / "leak.o").splitlines()
    assert len(exported) == 2
    assert "sum(float const*)" in functions_with_vector_code(disassemble(tmp_path / "leak.o"))


def test_the_module_exports_its_entry_point_alone_and_needs_only_the_system(build: Path) -> None:
    (module,) = build.glob("_core.*.so")
    exported = run("nm", "--dynamic", "--defined-only", module).split("\n")
    assert [line.split()[-1] for line in exported if line] == ["PyInit__core"]
    needed = set(re.findall(r"NEEDED\s+(\S+)", run("objdump", "--private-headers", module)))
    system = r"lib(stdc\+\+|gcc_s|c|m|dl|rt|pthread)\.so\.\d|ld-linux.*"
    assert all(re.fullmatch(system, library) for library in needed), needed


def test_cpp_tests_pass(build: Path) -> None:
    run("ctest", "--test-dir", build, "--output-on-failure")


# ------------------------------------------------------------------------------ the stub, the words


def test_stub_has_the_functions_and_arguments_of_the_core() -> None:
    stub = {}
    for node in ast.parse((PACKAGE / "_core.pyi").read_text()).body:
        if isinstance(node, ast.FunctionDef):
            stub[node.name] = [argument.arg for argument in node.args.args]
        elif isinstance(node, ast.ClassDef):
            stub[node.name] = []
    module = {}
    for name, value in vars(_core).items():
        if name.startswith("__"):
            continue
        signature = "" if isinstance(value, type) else (value.__doc__ or "").splitlines()[0]
        arguments = ast.parse(f"def {signature}: ...").body[0] if signature else None
        module[name] = (
            [a.arg for a in arguments.args.args] if isinstance(arguments, ast.FunctionDef) else []
        )
    assert stub == module


def test_every_public_name_exists_and_is_documented() -> None:
    for name in fastrnn.__all__:
        assert getattr(fastrnn, name).__doc__, name


def test_the_project_speaks_of_itself_alone() -> None:
    """No path of one developer's machine, no talk of how or by whom a line came about."""
    forbidden = re.compile(
        r"(?<![\w.])/(home|root|work|Users)/\w"
        r"|\b(this|my|our|last|previous|earlier|helper|developer'?s?) session\b"
        r"|\b(TODO|FIXME|XXX)\b",
        re.IGNORECASE,
    )
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    files = [ROOT / name for name in tracked.stdout.split()] or [*CXX, *PYTHON]
    found = []
    for path in files:
        if path == Path(__file__) or not path.is_file():
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found += [f"{relative(path)}: {m[0]}" for m in forbidden.finditer(text)]
    assert not found
