"""Many-to-one: the adding problem (Hochreiter & Schmidhuber 1997, section 5.4).

Each step brings a number in [0, 1) and a mark; two steps are marked, and the answer is the sum of
their numbers. Guessing the mean, 1, has a mean squared error of 1/6. Sequences differ in length:
the answer is read off the state after each row's own last step.

    python examples/adding_problem.py [updates]
"""

from __future__ import annotations

import sys

import numpy as np
from tqdm import trange

import fastrnn
from fastrnn.language_model.adam import Adam

B, SHORTEST, LONGEST, HIDDEN = 64, 30, 50, 64


def batch(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x (T, B, 2), lengths (B,), the sums (B,)."""
    x = rng.random((LONGEST, B, 2), dtype=np.float32)
    lengths = rng.integers(SHORTEST, LONGEST, B, endpoint=True)
    marks = np.stack([rng.choice(n, 2, replace=False) for n in lengths])
    x[:, :, 1] = 0
    x[marks.T, np.arange(B), 1] = 1
    return x, lengths, (x[:, :, 0] * x[:, :, 1]).sum(axis=0)


def main(updates: int = 1500) -> float:
    """Train, and return the mean squared error over the last tenth of the updates."""
    rng = np.random.default_rng(0)
    layer = fastrnn.GRU(2, HIDDEN, seed=0)
    readout = rng.normal(0, 0.1, HIDDEN).astype(np.float32)
    adam = Adam({**layer.parameters, "readout": readout})
    readout = adam.values["readout"]
    errors = []
    progress = trange(updates, disable=not sys.stderr.isatty())
    for _ in progress:
        x, lengths, wanted = batch(rng)
        _, h_n = layer.forward(x, lengths=lengths, training=True)
        error = h_n[0] @ readout - wanted
        errors.append(float(np.mean(error**2)))
        derror = (2 / B * error).astype(np.float32)
        dh_n = derror[None, :, None] * readout
        gradients = layer.backward(None, dh_n).parameters
        adam.step({**gradients, "readout": derror @ h_n[0]}, learning_rate=3e-3, clip=1.0)
        layer.update({name: adam.values[name] for name in layer.parameters})
        progress.set_postfix(mse=f"{errors[-1]:.4f}")
    return float(np.mean(errors[-max(1, updates // 10) :]))


if __name__ == "__main__":
    print(f"mean squared error: {main(*map(int, sys.argv[1:2])):.4f}  (guessing the mean: 0.1667)")
