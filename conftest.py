"""Runs the Python examples of README.md and docs/ as tests."""

from __future__ import annotations

from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser, SkipParser

pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()],
    patterns=["README.md", "docs/*.md", "docs/lecture/*.md"],
    excludes=["docs/keras.md"],  # in a process of its own, for its backend: tests/test_keras.py
).pytest()
