"""One training step of a Keras layer with and without fastrnn.keras.enable(): milliseconds.

    python benchmarks/keras_step.py [--backend torch jax] [--cell lstm gru rnn] [--seconds 3]

B=32, T=100, I=H=128, a dense layer on top, SGD, `train_on_batch`, threads as each library chooses.
Every measurement is a process of its own, for Keras has one backend a process.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from typing import Any

import numpy as np

B, T, H = 32, 100, 128
LAYERS = {"lstm": "LSTM", "gru": "GRU", "rnn": "SimpleRNN"}


def measure(cell: str, enabled: bool, seconds: float) -> float:
    """Milliseconds of the median step."""
    import keras

    import fastrnn.keras

    if enabled:
        fastrnn.keras.enable()
    layers: Any = keras.layers
    recurrent = getattr(layers, LAYERS[cell])(H, return_sequences=True)
    model = keras.Sequential([layers.Input((T, H)), recurrent, layers.Dense(1)])
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).standard_normal((B, T, H), dtype=np.float32)
    times: list[float] = []
    for _ in range(5):
        model.train_on_batch(x, x[..., :1])
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        model.train_on_batch(x, x[..., :1])
        times.append(time.perf_counter() - start)
    found = fastrnn.keras.report()
    if (found.fused > 0) != enabled or found.left:
        raise RuntimeError(f"not computed by whom it should be: {found}")
    return 1e3 * float(np.median(times))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", nargs="+", default=["torch", "jax"], choices=["torch", "jax"])
    parser.add_argument("--cell", nargs="+", default=list(LAYERS), choices=LAYERS)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(measure(options.one[0], options.one[1] == "on", options.seconds))
        return 0
    print(f"{'backend':8} {'cell':5} {'Keras':>8} {'enable()':>9}  ratio")
    for backend in options.backend:
        for cell in options.cell:
            found = []
            for switch in ("off", "on"):
                command = [sys.executable, __file__, "--one", cell, switch]
                done = subprocess.run(
                    [*command, "--seconds", str(options.seconds)],
                    env=os.environ | {"KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu"},
                    stdout=subprocess.PIPE,
                    text=True,
                    check=True,
                )
                found.append(float(done.stdout.split()[-1]))
            theirs, ours = found
            print(
                f"{backend:8} {cell:5} {theirs:8.2f} {ours:9.2f} {theirs / ours:6.2f}", flush=True
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
