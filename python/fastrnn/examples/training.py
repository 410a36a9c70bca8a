"""What the programs on fastrnn.torch share: batches of rows of different length, and Adam."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .shared import progress


def batch_of(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows (T_b, ...) as one tensor (B, T, ...), 0 beyond their ends, and their lengths (B,)."""
    lengths = torch.tensor([len(row) for row in rows])
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True), lengths


def train(
    model: torch.nn.Module, loss_of: Callable[[], Tensor], steps: int, rate: float, what: str = ""
) -> list[float]:
    """Minimise a loss by Adam; its rate rises at first and then falls to 0, the gradient's norm is
    clipped to 1. Returns the loss of each step.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps)
    losses = []
    model.train()
    bar = progress(range(steps), what)
    for _ in bar:
        loss = loss_of()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
    model.eval()
    return losses
