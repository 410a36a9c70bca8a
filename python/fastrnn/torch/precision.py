"""What a call computes in, and what it returns: the one rule for dtypes and autocast that all
modules follow.

* float32 and float64 are computed in their own precision;
* float16 and bfloat16 are stored so, and computed in float32 from the first step of the first layer
  to the last;
* under ``torch.autocast`` any mixture of float32, float16 and bfloat16 is accepted and computed in
  float32 from the values as they are; y and all states are returned in autocast's dtype. float64 is
  left alone, as autocast does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["autocast", "computable", "convert", "dtypes"]

_HALF = (torch.float16, torch.bfloat16)
_UP_TO_32 = (torch.float32, *_HALF)


def dtypes(
    x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[torch.dtype, torch.dtype] | None:
    """(dtype of the computation, dtype of the results), or None where these tensors do not go
    together.
    """
    dtype = x.dtype
    if (
        autocast()
        and torch.is_autocast_enabled(x.device.type)
        and all(t.dtype in _UP_TO_32 for t in (x, *states, *weights))
    ):
        return torch.float32, torch.get_autocast_dtype(x.device.type)
    for t in states:
        if t.dtype is not dtype:
            return None
    for t in weights:
        if t.dtype is not dtype:
            return None
    if dtype is torch.float32 or dtype is torch.float64:
        return dtype, dtype
    return (torch.float32, dtype) if dtype in _HALF else None


autocast = torch._C._is_any_autocast_enabled  # whether it is on, on any device


def computable(x: Tensor, weight: Tensor) -> bool:
    """Whether both are where the core computes, or on the meta device, where nobody computes."""
    return (x.is_cpu and weight.is_cpu) or (x.is_meta and weight.is_meta)


def convert(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    return [t.to(dtype) for t in tensors]
