"""Weights of recurrent layers from the layout of one framework to that of another: NumPy alone."""

from __future__ import annotations

from .convert import convert
from .table import LAYOUTS

__all__ = ["LAYOUTS", "convert"]
