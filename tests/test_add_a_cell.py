"""docs/add_a_cell.md, carried out on a copy of the sources: its files written, its edits made, the
core compiled, its comparison with the reference run.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from commands import ROOT, run

BLOCK = re.compile(r"^```(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"(?:#|//) file: (\S+)\n")


def carry_out(page: str, root: Path) -> str:
    """Writes and edits the page's files under `root`; returns the code that is in none."""
    rest = ""
    for language, text in BLOCK.findall(page):
        named = NAMED.match(text)
        if named is None:
            rest += text
            continue
        path, body = root / named[1], text[named.end() :]
        if language != "diff":
            assert not path.exists(), path
            path.write_text(body)
            continue
        for removed, added in re.findall(r"((?:^-.*\n)+)((?:^\+.*\n)+)", body, re.MULTILINE):
            old, new = (re.sub(r"^[-+]", "", part, flags=re.MULTILINE) for part in (removed, added))
            source = path.read_text()
            assert source.count(old) == 1, old
            path.write_text(source.replace(old, new))
    return rest


def test_the_page_adds_a_cell_that_agrees_with_its_reference(tmp_path: Path) -> None:
    pybind11 = pytest.importorskip("pybind11", reason="compiles an extension module")
    for folder in ("csrc", "python"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("*.so"))
    code = carry_out((ROOT / "docs" / "add_a_cell.md").read_text(), tmp_path)
    assert "assert_allclose" in code

    compiler = os.environ.get("CXX", "c++")
    flags = ["-std=c++20", "-O1", "-fPIC", "-fvisibility=hidden", f"-I{tmp_path / 'csrc'}"]
    flags += [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_path('include')}"]
    flags += ["-DFASTRNN_ISA=scalar", '-DFASTRNN_ISA_HEADER="cpu/isa/scalar.hpp"']

    def compiled(source: Path) -> Path:
        target = source.with_suffix(".o")
        run(compiler, *flags, "-c", source, "-o", target)
        return target

    # the scalar instruction set alone
    sources = {p for p in (tmp_path / "csrc").rglob("*.cpp") if p.stem not in ("amx", "fixed")}
    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, sorted(sources)))
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    module = tmp_path / "python" / "fastrnn" / f"_core{suffix}"
    run(compiler, "-shared", *objects, "-lpthread", "-ldl", "-o", module)

    script = tmp_path / "page.py"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "python")}
    environment.pop("FASTRNN_BACKEND", None)
    run(sys.executable, script, cwd=tmp_path, env=environment)
