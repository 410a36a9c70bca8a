"""A plugin for pytest: Keras's own tests with every layer computed by the kernels."""

from __future__ import annotations

import fastrnn.keras


def pytest_configure() -> None:
    fastrnn.keras.enable()


def pytest_terminal_summary(terminalreporter: object) -> None:
    terminalreporter.write_line(f"fused={fastrnn.keras.report().fused}")  # type: ignore[attr-defined]
