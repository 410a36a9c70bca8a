"""A packed sequence and a padded one, from each to the other."""

from __future__ import annotations

import torch
from torch import Tensor

from fastrnn.torch.eager import eager

__all__ = ["Rows"]


class Rows:
    """Where the rows of a PackedSequence lie in a padded (T, B, ...) tensor."""

    def __init__(self, batch_sizes: Tensor, rows: int, B: int | None = None) -> None:
        """``B``: where it is known without reading a tensor."""
        T, B = batch_sizes.size(0), int(batch_sizes[0]) if B is None else B
        self.shape = (T, B)
        self.lengths: Tensor | None = None
        self.index: Tensor | None = None
        if torch.compiler.is_compiling() or int(batch_sizes[-1]) < B:
            taken = torch.arange(B) < batch_sizes.unsqueeze(1)  # (T, B)
            self.lengths = taken.sum(0)
            self.index = torch.nonzero_static(taken.flatten(), size=rows).squeeze(1)

    def pad(self, data: Tensor) -> Tensor:
        T, B = self.shape
        if self.index is None:
            return data.view(T, B, -1)
        index = self.index.to(data.device, non_blocking=True)
        if eager(data):  # the core does not read what lies beyond a row's end
            padded = data.new_empty(T * B, data.shape[1]).index_copy_(0, index, data)
        else:
            padded = data.new_zeros(T * B, data.shape[1]).index_copy(0, index, data)
        return padded.view(T, B, -1)

    def pack(self, padded: Tensor) -> Tensor:
        rows = padded.flatten(0, 1)
        if self.index is None:
            return rows
        return rows.index_select(0, self.index.to(rows.device, non_blocking=True))
