"""torch's own samples of its six classes on ours, in a process of their own: torch's module of test
helpers changes settings of the whole process.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest
from commands import run

pytest.importorskip("torch")
if importlib.util.find_spec("expecttest") is None:
    pytest.skip("torch's own samples need expecttest", allow_module_level=True)


def test_the_samples_hold() -> None:
    cases = Path(__file__).with_name("torch_module_info.py")
    out = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", cases)
    found = re.search(r"(\d+) passed", out)
    assert found is not None
    assert int(found[1]) >= 80, out
    assert "skipped" not in out
