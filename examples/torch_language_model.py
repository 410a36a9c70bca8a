"""A character language model in PyTorch, with torch.nn.LSTM and with fastrnn.torch.LSTM: the same
losses, in less time.

Embedding, two layers of LSTM, softmax, Adam, on the Book of Genesis that comes with fastrnn.

    python examples/torch_language_model.py --steps 200
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from importlib.resources import files
from statistics import median

import torch

import fastrnn.torch


class Model(torch.nn.Module):
    """The next character from those before."""

    def __init__(self, characters: int, size: int) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(characters, size)
        self.lstm = torch.nn.LSTM(size, size, num_layers=2, batch_first=True)
        self.output = torch.nn.Linear(size, characters)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        y, _ = self.lstm(self.embedding(text))
        scores: torch.Tensor = self.output(y)
        return scores


def train(
    steps: int, fast: bool, size: int = 256, rows: int = 32, length: int = 64
) -> Iterator[tuple[float, float]]:
    """The loss of each step and its time in milliseconds, step by step."""
    text = (files("fastrnn") / "data" / "genesis.txt").read_text()
    alphabet = sorted(set(text))
    code = torch.tensor([alphabet.index(character) for character in text])
    torch.manual_seed(0)
    model = Model(len(alphabet), size)
    if fast:
        fastrnn.torch.replace(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    places = torch.Generator().manual_seed(1)
    for _ in range(steps):
        starts = torch.randint(len(code) - length - 1, (rows, 1), generator=places)
        batch = code[starts + torch.arange(length + 1)]
        begin = time.thread_time()
        scores = model(batch[:, :-1])
        loss = torch.nn.functional.cross_entropy(scores.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        taken = time.thread_time() - begin
        yield loss.item(), 1e3 * taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--size", type=int, default=256, help="units of a layer")
    options = parser.parse_args()
    torch.set_num_threads(1)
    theirs, ours, their_times, our_times = [], [], [], []
    runs = (train(options.steps, fast, options.size) for fast in (False, True))
    for (their_loss, their_time), (our_loss, our_time) in zip(*runs, strict=True):  # in turn
        theirs.append(their_loss)
        ours.append(our_loss)
        their_times.append(their_time)
        our_times.append(our_time)
    difference = max(abs(a - b) for a, b in zip(theirs, ours, strict=True))
    print(f"loss {ours[0]:.3f} at first, {ours[-1]:.3f} after {options.steps} steps")
    print(f"largest difference of the losses {difference:.1e}")
    medians = median(their_times), median(our_times)
    print("a step: torch.nn {:.1f} ms, fastrnn.torch {:.1f} ms".format(*medians))


if __name__ == "__main__":
    main()
