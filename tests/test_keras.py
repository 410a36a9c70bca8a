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


def run_pytest(backend: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = f"{TESTS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        env=os.environ | {"KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path},
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
    )


def own_tests(
    backend: str, *modules: str, enabled: bool = True
) -> subprocess.CompletedProcess[str]:
    """Keras's own."""
    plugin = ["-p", "keras_enabled"] if enabled else []
    plain = ["-c", os.devnull, "--rootdir", str(TESTS), *plugin, "--pyargs"]
    return run_pytest(backend, *plain, *(f"keras.src.layers.rnn{name}" for name in modules))


def fused(done: subprocess.CompletedProcess[str]) -> int:
    """Layers computed by the kernels."""
    found = re.search(r"fused=(\d+)", done.stdout)
    assert found is not None, done.stdout[-4000:] + done.stderr[-2000:]
    return int(found[1])


@pytest.mark.parametrize("backend", ["numpy", "torch", "jax"])
def test_the_cases_hold_on_the_backend(backend: str) -> None:
    pytest.importorskip(backend)
    done = run_pytest(backend, str(TESTS / "keras_cases.py"))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert re.search(r"\d{2} passed", done.stdout)


@pytest.mark.parametrize("backend", ["numpy", "jax"])
def test_the_layers_own_tests_of_keras_pass(backend: str) -> None:
    pytest.importorskip(backend)
    done = own_tests(backend, ".lstm_test", ".gru_test", ".simple_rnn_test")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert fused(done) > 20


@pytest.mark.exhaustive
@pytest.mark.parametrize("backend", ["numpy", "torch", "jax"])
def test_as_many_of_all_own_tests_of_keras_pass_as_without_the_kernels(backend: str) -> None:
    pytest.importorskip(backend)
    without, with_them = (own_tests(backend, "", enabled=enabled) for enabled in (False, True))
    passed = [re.search(r"(\d+) passed", done.stdout) for done in (without, with_them)]
    assert passed[0] is not None
    assert passed[1] is not None
    assert int(passed[1][1]) == int(passed[0][1]) > 70
    assert fused(with_them) > 100


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
