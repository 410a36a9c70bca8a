"""What this installation is made of, for `fastrnn info` and for bug reports."""

from __future__ import annotations

import ctypes
import platform
from importlib import metadata
from typing import NamedTuple

import numpy as np

from . import _core, backends, get_float32_precision, get_num_threads

_FRAMEWORKS = (
    "torch",
    "jax",
    "flax",
    "keras",
    "tensorflow",
    "onnx",
    "onnxruntime",
    "openvino",
    "matplotlib",
)


def information() -> dict[str, str]:
    """Names and values, in the order to print them. Imports none of the frameworks it names."""
    values = {
        "fastrnn": installed("fastrnn") or "not installed: run from its source",
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "numpy": np.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "backends": f"{', '.join(backends())} (best first)",
        "built for": ", ".join(_core.backends(compiled=True)),
        "cuda": cuda(),
        "float32 on a GPU": get_float32_precision(),
        "threads": str(get_num_threads()),
    }
    if "cuda" in backends():
        for dtype in ("float32", "bfloat16"):
            path = cuda_path("lstm", T=100, B=64, H=512, dtype=dtype)
            values[f"LSTM of 512, {dtype}"] = path.forward
    return values | {name: installed(name) or "not installed" for name in _FRAMEWORKS}


class CudaPath(NamedTuple):
    """Which way a call's forward and backward go on a GPU, "persistent" or "steps", and why."""

    forward: str
    backward: str


def cuda_path(
    cell: str,
    *,
    T: int,
    B: int,
    H: int,
    dtype: str = "float32",
    reset: bool = False,
    device: int | None = None,
) -> CudaPath:
    """Which way a call of T steps, B rows and H units goes on a GPU, and why.

    ``"steps: ..."``: kernels for each step. ``"persistent: ..."``: one for all steps, with the
    recurrent weights on the chip throughout; its tile and blocks a cluster follow.
    FASTRNN_CUDA_PATH decides it where it is ``steps`` or ``persistent``, the latter also with a
    tile and a cluster (``persistent spread 8``); else the shorter by a model of both. ``cell``:
    lstm, lstm_coupled, gru, gru_reset_before, rnn_tanh or rnn_relu; ``reset``: whether there is
    one; ``device``: the current one by default. Raises ``ValueError`` without a GPU, and for a
    path that is asked for and cannot be; ``RuntimeError`` for a device that is not there.
    """
    return CudaPath(*_core.cuda_path(cell, dtype, T, B, H, reset, -1 if device is None else device))


def show_config() -> None:
    """Print the version, the backends, the threads and the frameworks of this installation."""
    values = information()
    width = max(map(len, values))
    for name, value in values.items():
        print(f"{name:{width}}  {value}")


def installed(distribution: str) -> str | None:
    """The version of an installed distribution, or None; nothing is imported."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def cuda() -> str:
    """Whether arrays on a CUDA device can be computed here, and if not, what is missing."""
    if "cuda" in backends():
        return "ready"
    if "cuda" not in _core.backends(compiled=True):
        return "built without CUDA: install where nvcc is, with FASTRNN_CUDA=on"
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver: libcuda.so.1 is not found"
    return "the driver finds no device"


def processor() -> str:
    """The processor's name, as the system gives it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
