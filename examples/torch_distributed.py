"""Data-parallel training in several processes with torch's DistributedDataParallel, and the proof
that it is right.

Each rank takes its share of the batch; gradients are averaged over gloo (on GPUs: nccl). After some
steps the weights are compared with those of one process that saw the whole batch.

    python examples/torch_distributed.py --ranks 2 --steps 20
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

import fastrnn.torch

BATCH, T, INPUT, HIDDEN = 8, 20, 6, 16


class Tagger(torch.nn.Module):
    """A bidirectional LSTM that says of each step whether the running sum of the input is
    positive.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lstm = fastrnn.torch.LSTM(INPUT, HIDDEN, bidirectional=True, batch_first=True)
        self.output = torch.nn.Linear(2 * HIDDEN, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, _ = self.lstm(x)
        score: torch.Tensor = self.output(y).squeeze(-1)
        return score


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(
        BATCH, T, INPUT, generator=torch.Generator().manual_seed(step), dtype=torch.float64
    )
    return x, (x.sum(-1).cumsum(1) > 0).double()


def train(steps: int, rank: int = 0, ranks: int = 1) -> list[torch.Tensor]:
    """The weights after some steps, of a rank that sees every ``ranks``-th row of each batch."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model: torch.nn.Module = Tagger().double()
    if ranks > 1:
        model = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    for step in range(steps):
        x, target = (t[rank::ranks] for t in batch(step))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if rank == 0:
            print(f"{ranks} ranks, step {step + 1}: loss {loss.item():.4f}", flush=True)
    return [p.detach() for p in model.parameters()]


def work(rank: int, ranks: int, steps: int, folder: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=ranks
    )
    weights = train(steps, rank, ranks)
    if rank == 0:
        torch.save(weights, Path(folder) / "weights.pt")
    torch.distributed.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all ranks are on this machine
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(work, (options.ranks, options.steps, folder), options.ranks)
        together = torch.load(Path(folder) / "weights.pt")
    alone = train(options.steps)
    difference = max((a - b).abs().max().item() for a, b in zip(together, alone, strict=True))
    print(f"{options.ranks} ranks against one process: largest difference {difference:.1e}")


if __name__ == "__main__":
    main()
