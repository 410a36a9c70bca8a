"""Each program of examples/ does what it says."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType

from commands import ROOT


def load(name: str) -> ModuleType:
    spec = spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_gru_learns_the_adding_problem() -> None:
    assert load("adding_problem").main(updates=800) < 0.02
