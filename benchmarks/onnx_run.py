"""fastrnn.onnx beside ONNX Runtime on the same exported model, one thread: milliseconds a run and
the ratio.

    taskset -c 1 python benchmarks/onnx_run.py [--cell lstm gru rnn] [--case shapes] [--seconds 1]

Results are compared before they are timed. The last line of a cell is the geometric mean of the
ratios and the least of them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime

import fastrnn
import fastrnn.onnx
from fastrnn.bench.cases import CELLS, choose
from fastrnn.bench.timing import interleaved

LAYERS = {"lstm": fastrnn.LSTM, "gru": fastrnn.GRU, "rnn": fastrnn.RNN}
LARGEST_DIFFERENCE = 1e-4  # of values within 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cell", nargs="+", default=["lstm", "gru"], choices=CELLS)
    parser.add_argument("--case", nargs="+", default=["shapes"])
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    fastrnn.set_num_threads(1)
    alone = onnxruntime.SessionOptions()
    alone.intra_op_num_threads = alone.inter_op_num_threads = 1
    path = Path(tempfile.mkdtemp()) / "model.onnx"
    differs = False
    for cell in options.cell:
        print(f"{cell}: B,T,I,H,L  ONNX Runtime ms  fastrnn ms  ratio")
        ratios = []
        for case in choose(options.case):
            layer = LAYERS[cell](case.input_size, case.hidden_size, case.layers, seed=0)
            fastrnn.onnx.export(layer, path)
            session = onnxruntime.InferenceSession(path, alone, providers=["CPUExecutionProvider"])
            prepared = fastrnn.onnx.prepare(path)
            shape = (case.steps, case.batch, case.input_size)
            feeds = {"x": np.random.default_rng(0).standard_normal(shape, dtype=np.float32)}
            calls = {
                "theirs": lambda session=session, feeds=feeds: session.run(["y"], feeds)[0],
                "ours": lambda prepared=prepared, feeds=feeds: prepared.run(feeds)["y"],
            }
            apart = np.abs(calls["ours"]() - calls["theirs"]()).max()
            if apart > LARGEST_DIFFERENCE:
                differs = True
                print(f"{case.name}: results differ by {apart:.3g}")
                continue
            times = interleaved(calls, options.seconds)
            theirs, ours = (1e3 * times[name].median for name in calls)
            ratios.append(theirs / ours)
            print(f"{case.name:20} {theirs:9.4f} {ours:9.4f} {ratios[-1]:6.2f}", flush=True)
        mean = float(np.exp(np.mean(np.log(ratios))))
        print(f"geometric mean {mean:.2f}, least {min(ratios):.2f}")
    return int(differs)


if __name__ == "__main__":
    sys.exit(main())
