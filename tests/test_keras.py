"""fastrnn.keras on every backend of Keras that it has, each in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

if importlib.util.find_spec("keras") is None:  # not imported: each backend wants a process
    pytest.skip("Keras is not installed", allow_module_level=True)
TESTS = Path(__file__).parent


def run_pytest(backend: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        env=os.environ | {"KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu"},
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("backend", ["numpy", "torch", "jax"])
def test_the_cases_hold_on_the_backend(backend: str) -> None:
    pytest.importorskip(backend)
    assert re.search(r"\d{2} passed", run_pytest(backend, str(TESTS / "keras_cases.py")))


@pytest.mark.parametrize("backend", ["numpy", "jax"])
def test_the_layers_own_tests_of_keras_pass(backend: str) -> None:
    pytest.importorskip(backend)
    modules = [f"keras.src.layers.rnn.{name}_test" for name in ("lstm", "gru", "simple_rnn")]
    plain = ["-c", os.devnull, "--rootdir", str(TESTS), "-p", "keras_enabled", "--pyargs"]
    environment = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = f"{TESTS}{os.pathsep}{environment}"
    try:
        out = run_pytest(backend, *plain, *modules)
    finally:
        os.environ["PYTHONPATH"] = environment
    fused = re.search(r"fused=(\d+)", out)
    assert fused is not None
    assert int(fused[1]) > 20


def test_the_examples_of_the_documentation_run() -> None:
    pytest.importorskip("torch")
    page = (TESTS.parent / "docs" / "keras.md").read_text()
    examples = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(examples) == 2
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(examples)],
        env=os.environ | {"KERAS_BACKEND": "torch"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Report(fused=3, left={})" in done.stdout
