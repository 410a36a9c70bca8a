"""Time series, step by step: an LSTM sees each value and says the next one.

Sunspots, one year ahead (a cycle of some eleven years, never quite the same), and carbon dioxide at
Mauna Loa, two years ahead: there the network goes on from its own predictions, month by month. The
sunspots are held against the best linear forecast from nine years, carbon dioxide against the
growth of the ten years before.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import fastrnn.torch

from .shared import Goal, curve, panels, save
from .training import batch_of, train

Array = npt.NDArray[Any]


def read(name: str) -> tuple[Array, Array]:
    """When (n,), in years, and what (n,)."""
    text = (resources.files("fastrnn") / "data" / f"{name}.csv").read_text()
    dates, values = zip(*(line.split(",") for line in text.splitlines()[1:]), strict=True)
    years = [int(d[:4]) + (int(d[5:]) - 0.5) / 12 if d[4:] else float(d) for d in dates]
    return np.array(years), np.array(values, float)


class Forecaster(torch.nn.Module):
    """Each step's expectation of the next value: (B, T, 1) in, (B, T, 1) out."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.lstm = fastrnn.torch.LSTM(1, units, batch_first=True)
        self.output = torch.nn.Linear(units, 1)

    def forward(self, x: Tensor, lengths: Any = None, state: Any = None) -> tuple[Tensor, Any]:
        y, state = self.lstm(x, state, lengths=lengths)
        guess: Tensor = self.output(y)
        return guess, state


def fit(values: Array, units: int, longest: int, updates: int, what: str) -> Any:
    """A forecaster of the series (n,), trained on windows of it of different length."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model, series = Forecaster(units), torch.tensor(values, dtype=torch.float32)[:, None]

    def loss() -> Tensor:
        sizes = rng.integers(longest // 2, longest, 32)
        rows = [series[at : at + n + 1] for n in sizes for at in [rng.integers(len(series) - n)]]
        x, lengths = batch_of([row[:-1] for row in rows])
        wanted, _ = batch_of([row[1:] for row in rows])
        guess, _ = model(x, lengths)
        inside = torch.arange(x.shape[1])[:, None] < lengths[:, None, None]
        total: Tensor = ((guess - wanted) * inside).square().sum()
        return total / inside.sum()

    return model, train(model, loss, updates, 1e-2, what)


@torch.no_grad()
def forecast(model: Forecaster, values: Array, first: int, steps: int) -> Array:
    """(n - first - steps + 1, steps): what the model expects after each value from index first - 1
    on, going on from its own words.
    """
    n = len(values) - first - steps + 1
    rows = torch.tensor(values, dtype=torch.float32)
    x, lengths = batch_of([rows[: first + i, None] for i in range(n)])
    guess, state = model(x, lengths)
    last = guess[torch.arange(n), lengths - 1][:, None]
    guesses = [last]
    for _ in range(steps - 1):
        last, state = model(last, state=state)
        guesses.append(last)
    return torch.cat(guesses, 1)[:, :, 0].double().numpy()


def rms(error: Array) -> float:
    return float(np.sqrt(np.mean(error**2)))


def main(quick: bool, picture: Path) -> list[Goal]:
    updates = 50 if quick else 100  # with more it knows the past better, and the future less
    # sunspots: the root's ups and downs are of one size
    years, spots = read("sunspots")
    first = int(np.searchsorted(years, 1940))
    scaled = np.sqrt(spots) / 4 - 1.5
    model, losses = fit(scaled[:first], 32, 120, updates, "sunspots")
    expected = (forecast(model, scaled, first, 1)[:, 0] * 4 + 6) ** 2
    nine = np.lib.stride_tricks.sliding_window_view(spots, 10)  # nine years and the next
    past, future = np.insert(nine[:, :9], 0, 1.0, axis=1), nine[:, 9]
    weights = np.linalg.lstsq(past[: first - 9], future[: first - 9], rcond=None)[0]
    errors = {
        "as now": rms(spots[first - 1 : -1] - spots[first:]),
        "linear": rms(past[first - 9 :] @ weights - spots[first:]),
        "LSTM": rms(expected - spots[first:]),
    }
    # carbon dioxide: its change from month to month
    months, ppm = read("co2")
    begin, ahead = int(np.searchsorted(months, 1988)), 24
    change = np.diff(ppm)
    model, co2_losses = fit(change[: begin - 1], 32, 120, updates, "carbon dioxide")
    changes = forecast(model, change, begin - 1, ahead)
    starts = np.arange(begin - 1, begin - 1 + len(changes))
    paths = ppm[starts, None] + changes.cumsum(1)
    trends = [np.polyfit(np.arange(120), ppm[k - 119 : k + 1], 1)[0] for k in starts]
    errors |= {
        "CO2 as now": rms(ppm[starts] - ppm[starts + ahead]),
        "CO2 trend": rms(ppm[starts] + ahead * np.array(trends) - ppm[starts + ahead]),
        "CO2 LSTM": rms(paths[:, -1] - ppm[starts + ahead]),
    }
    print("root mean square errors: " + ", ".join(f"{k} {v:.3g}" for k, v in errors.items()))

    figure, grid = panels(1, 3, 12, 3.2)
    left, middle, right = grid[0]
    left.plot(years, spots, color="black", linewidth=1, label="sunspots")
    left.plot(years[first:], expected, color="tab:red", linewidth=1, label="one year ahead")
    left.set_xlim(1900, 2010)
    middle.plot(months, ppm, color="black", linewidth=1, label="CO2, ppm")
    for k, path in list(zip(starts, paths, strict=True))[::ahead]:
        label = "two years ahead" if k == starts[0] else None
        middle.plot(months[k + 1 : k + 1 + ahead], path, color="tab:red", linewidth=1, label=label)
    middle.set_xlim(1984, 2002)
    middle.set_xticks(range(1985, 2002, 5))
    middle.set_ylim(340, 375)
    curve(right, losses, "sunspots")
    curve(right, co2_losses, "CO2")
    right.set_yscale("log")
    right.set_ylabel("squared error, scaled")
    for panel in grid[0]:
        panel.legend(fontsize=8)
    save(figure, picture)
    spots_share = errors["LSTM"] / errors["linear"]
    co2_share = errors["CO2 LSTM"] / errors["CO2 trend"]
    return [
        Goal(
            "sunspots, error relative to the linear one's", spots_share, 1.3 if quick else 0.9, True
        ),
        Goal("CO2, error relative to the trend's", co2_share, 1.5 if quick else 1.0, True),
    ]
