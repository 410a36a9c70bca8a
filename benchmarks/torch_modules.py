"""fastrnn.torch beside torch.nn and beside the NumPy layers that it stands on: milliseconds a call.

    taskset -c 1 python benchmarks/torch_modules.py [--cell lstm gru rnn] [--mode infer train]
                                                    [--case shapes] [--seconds 1]

One thread. Results are compared before they are timed.
"""

from __future__ import annotations

import sys

import fastrnn
from fastrnn.bench.compared import versus
from fastrnn.bench.peers.ours import FastRNN
from fastrnn.bench.peers.torch import Torch


class Modules(Torch):
    """The same calls on our modules."""

    name = "fastrnn.torch"

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        import fastrnn.torch

        self.modules = fastrnn.torch


if __name__ == "__main__":
    fastrnn.set_num_threads(1)
    sys.exit(versus(__doc__.splitlines()[0], lambda: [Torch(1), Modules(1), FastRNN(1)]))
