"""What every test shares: a seeded generator, hypothesis without chance, and what happens when a tool or GPU is absent."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import hypothesis
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]

hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260101)


@pytest.fixture(scope="session")
def require_program() -> Callable[[str], str]:
    """The path of a program that pip cannot bring. Without it a test is skipped, but on CI it fails."""

    def find(name: str) -> str:
        path = shutil.which(name)
        if path is None:
            (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{name} is not installed")
        return path

    return find


def run(*command: str | Path, **options: object) -> str:
    """Standard output of a command in the project's root; an error shows all that it printed.

    Programs of this interpreter's environment come first, whether or not it is activated.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, **options.pop("env", {})}  # type: ignore[dict-item]
    done = subprocess.run(
        [str(c) for c in command], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command} exited with {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def build() -> Path:
    """A build folder of the working tree: objects, the module with its symbols, C++ tests, compile_commands.json."""
    run("cmake", "--preset", "default", f"-DPython_EXECUTABLE={sys.executable}")
    run("cmake", "--build", "--preset", "default")
    return ROOT / "build" / "default"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    gpu_tests = [item for item in items if item.get_closest_marker("gpu")]
    if gpu_tests and not gpu_is_there():
        for item in gpu_tests:
            item.add_marker(pytest.mark.skip(reason="no GPU, or a build without CUDA"))


def gpu_is_there() -> bool:
    import fastrnn

    return "cuda" in fastrnn.backends()
