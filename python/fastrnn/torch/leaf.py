"""What torch.fx sees of a module: one node of its graph, as of torch.nn's own."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Proxy

__all__ = ["Proxy", "as_leaf"]


def as_leaf(module: torch.nn.Module, input: Proxy, *rest: Any, **marks: Any) -> Any:
    """The node that calls the module, in the graph that is being traced."""
    tracer: Any = input.tracer
    given = {name: mark for name, mark in marks.items() if mark is not None}
    path = tracer.path_of_module(module)
    return tracer.create_proxy("call_module", path, (input, *rest), given)
