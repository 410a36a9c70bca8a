"""Whether a call may be computed at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = [
    "PLAIN",
    "dispatch_modes",
    "eager",
    "tracing",
    "transforms_active",
    "unwatched",
]

# not looked up at every call
_compiling = torch.compiler.is_compiling
transforms_active = torch._C._are_functorch_transforms_active
dispatch_modes = torch._C._len_torch_dispatch_stack
tracing = torch._C._is_tracing

PLAIN = (Tensor, torch.nn.Parameter)


def eager(x: Tensor) -> bool:
    """Whether the core may be called at once: there is memory to read, and nobody who must see an
    operator.
    """
    return unwatched(x) and (x.is_cpu or x.is_cuda)


def unwatched(x: Tensor) -> bool:
    """Whether nobody must see an operator."""
    return (
        type(x) in PLAIN
        and not _compiling()
        and not transforms_active()
        and forward_ad._current_level < 0
        and not dispatch_modes()
        and not tracing()
    )
