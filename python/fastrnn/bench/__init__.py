"""`fastrnn bench`: this machine's figures, ours beside those of the peers that are installed."""

from __future__ import annotations

from .run import run

__all__ = ["run"]
