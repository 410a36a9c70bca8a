"""Running the project's tools from a test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def attempt(
    *command: str | Path, env: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run a command. Programs of this interpreter's environment come first, activated or not."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, "PATH": path, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(*command: str | Path, env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> str:
    """What a command prints; a command that fails is an error that shows it."""
    done = attempt(*command, env=env, cwd=cwd)
    if done.returncode:
        pytest.fail(f"{done.args} exited with {done.returncode}\n{done.stdout}", pytrace=False)
    return done.stdout


def program(name: str) -> str:
    """The path of a program that pip cannot bring.

    Without it the test is skipped; where FASTRNN_CI is set, as .ci/run does, it fails.
    """
    path = shutil.which(name)
    if path is None:
        (pytest.fail if "FASTRNN_CI" in os.environ else pytest.skip)(f"{name} is not installed")
    return path
