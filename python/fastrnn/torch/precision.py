"""What a call computes in, and what it returns: the one rule for dtypes and autocast that all
modules follow.

* float32 and float64 are computed in their own precision;
* float16 and bfloat16 are stored so, and computed in float32: on the CPU from the first step of the
  first layer to the last, on a CUDA device with h stored so after every step and c in float32;
* under ``torch.autocast`` any mixture of float32, float16 and bfloat16 is accepted, and y and all
  states are returned in autocast's dtype. The CPU computes in float32 from the values as they are,
  a CUDA device from values rounded to autocast's dtype. float64 is left alone, as autocast does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from fastrnn import _core

__all__ = ["autocast", "computable", "convert", "dtypes", "is_half"]

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
        narrow = torch.get_autocast_dtype(x.device.type)
        return narrow if x.is_cuda else torch.float32, narrow
    for t in states:
        if t.dtype is not dtype:
            return None
    for t in weights:
        if t.dtype is not dtype:
            return None
    if dtype is torch.float32 or dtype is torch.float64:
        return dtype, dtype
    if dtype not in _HALF:
        return None
    return dtype if x.is_cuda else torch.float32, dtype


autocast = torch._C._is_any_autocast_enabled  # whether it is on, on any device


def computable(x: Tensor, weight: Tensor) -> bool:
    """Whether both are where the core computes, or on the meta device, where nobody computes.

    Raises RuntimeError for tensors on a CUDA device where the core cannot run on one.
    """
    if x.is_cuda and x.device == weight.device:
        if not torch.compiler.is_compiling() and not _has_cuda():
            built = "cuda" in _core.backends(compiled=True)
            why = "it finds no CUDA device" if built else "it was built without CUDA"
            raise RuntimeError(
                f"fastrnn.torch: the tensors are on {x.device}, and fastrnn cannot compute there: "
                f"{why}; torch.nn's classes can"
            )
        return True
    return (x.is_cpu and weight.is_cpu) or (x.is_meta and weight.is_meta)


@cache
def _has_cuda() -> bool:
    return "cuda" in _core.backends(compiled=False)


def is_half(tensor: Tensor) -> bool:
    return tensor.dtype in _HALF


def convert(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    return [t.to(dtype) for t in tensors]
