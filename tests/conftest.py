"""What every test shares: a seeded generator, hypothesis without chance, a build, GPU tests."""

from __future__ import annotations

import fcntl
import sys
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from commands import ROOT, run

hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def _threads_for_small_shapes() -> None:
    """The sizes of tests are too small to be worth a second thread, which is to be tested."""
    from fastrnn import _core

    _core.set_least_work(0)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260101)


@pytest.fixture(scope="session")
def build() -> Path:
    """A build of the working tree: objects, module with symbols, C++ tests, compile commands."""
    (ROOT / "build").mkdir(exist_ok=True)
    with open(ROOT / "build" / "lock", "w") as lock:  # pytest has several workers
        fcntl.flock(lock, fcntl.LOCK_EX)
        run("cmake", "--preset", "default", f"-DPython_EXECUTABLE={sys.executable}")
        run("cmake", "--build", "--preset", "default")
    return ROOT / "build" / "default"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    gpu_tests = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_tests:
        return
    import fastrnn

    if "cuda" not in fastrnn.backends():
        for item in gpu_tests:
            item.add_marker(pytest.mark.skip(reason="no GPU, or a build without CUDA"))
