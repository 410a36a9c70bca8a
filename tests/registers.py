"""What ptxas says of the persistent kernels: registers a thread, bytes of local memory.

`python tests/registers.py` writes registers.json, the committed table.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from itertools import product
from pathlib import Path

from commands import ROOT, run

TABLE = Path(__file__).with_name("registers.json")
ARCHITECTURES = ("90a", "100")
CELLS = ("Lstm", "Gru", "RnnTanh", "RnnRelu", "LstmCoupled")
BOUNDED = [cell for cell in CELLS if cell != "RnnRelu"]  # what Split<Float16> asks for
WAYS = ("forward", "backward")
Kernel = tuple[str, str, str, str]
KERNELS: list[Kernel] = [
    *product(WAYS, CELLS, ["Narrow<BFloat16>"], ["Block", "Spread"]),
    *product(WAYS, CELLS[:-1], ["Narrow<BFloat16>"], ["Wide"]),
    *product(WAYS, ["Lstm"], ["Narrow<Float16>"], ["Block", "Spread", "Wide"]),
    *product(WAYS, CELLS, ["Tf32"], ["Block", "Spread"]),
    *product(["forward"], BOUNDED, ["Split<Float16>"], ["Block", "Spread"]),
    *product(["backward"], BOUNDED, ["Split<BFloat16>"], ["Block", "Spread"]),
]


def source(kernels: list[Kernel]) -> str:
    """A CUDA source that instantiates the kernels."""
    lines = [
        '#include "cells/cells.hpp"',
        '#include "persistent/sizes.cuh"',
        "namespace fastrnn { namespace { namespace cuda { namespace persistent {",
    ]
    for way, cell, mode, size in kernels:
        name = way.capitalize()
        traits = f"{name}{size}::Traits<{cell}, {mode}>"
        lines.append(
            f"template __global__ void {way}_kernel<{traits}>({name}Data<{mode}::Value>, "
            f"{name}Shape<{traits}>);"
        )
    return "\n".join([*lines, "}}}}", ""])


def measured(architecture: str, kernels: list[Kernel] = KERNELS) -> dict[str, list[int]]:
    """Kernel -> registers a thread, bytes of local memory."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernels.cu"
        file.write_text(source(kernels))
        report = run(
            "nvcc",
            "-std=c++20",
            "--expt-relaxed-constexpr",
            *(f"-I{ROOT / name}" for name in ("csrc", "cuda")),
            f"-gencode=arch=compute_{architecture},code=sm_{architecture}",
            "-Xptxas=-v",
            "-cubin",
            file,
            "-o",
            file.with_suffix(".cubin"),
        )
    found = re.findall(
        r"Compiling entry function '(\S+)'.*?(\d+) bytes stack frame.*?Used (\d+) registers",
        report,
        re.DOTALL,
    )
    names = run("c++filt", *(symbol for symbol, _, _ in found)).splitlines()
    table = {}
    for name, (_, stack, registers) in zip(names, found, strict=True):
        plain = re.sub(r"\(anonymous namespace\)|\w+::", "", name).replace("::", "")
        kernel = re.search(r"(\w+)_kernel<\w+<(\w+), ?(\w+(?:<\w+>)?), ([\d, ]+)>", plain)
        assert kernel, name
        table[" ".join(kernel.groups())] = [int(registers), int(stack)]
    assert len(table) == len(kernels), report
    return dict(sorted(table.items()))


if __name__ == "__main__":
    table = {architecture: measured(architecture) for architecture in ARCHITECTURES}
    lines = json.dumps(table, indent=1)
    TABLE.write_text(re.sub(r"\[\s+(\d+),\s+(\d+)\s+\]", r"[\1, \2]", lines) + "\n")
    sys.exit(any(stack for kernels in table.values() for _, stack in kernels.values()))
