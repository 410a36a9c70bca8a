"""ONNX: its recurrent operators with their full semantics on the fused core, and models of them."""

from __future__ import annotations

from .backend import Backend
from .exporting import export
from .graph import Model, prepare, run
from .importing import load
from .operators import gru, lstm, rnn

__all__ = ["Backend", "Model", "export", "gru", "load", "lstm", "prepare", "rnn", "run"]
