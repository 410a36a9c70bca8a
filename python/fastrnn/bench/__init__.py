"""`fastrnn bench`: this machine's figures, ours beside those of the peers that are installed, and
both beside what the machine can do.
"""

from __future__ import annotations

from .report import compare
from .run import run

__all__ = ["compare", "run"]
