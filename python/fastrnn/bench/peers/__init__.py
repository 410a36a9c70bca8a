"""Whom we time: ourselves first, then each peer, on the same weights and inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..problem import Peer
from .jax import Jax
from .onnxruntime import OnnxRuntime
from .openvino import OpenVino
from .ours import FastRNN
from .torch import Torch

PEERS: dict[str, Callable[[int], Peer]] = {
    kind.name: kind for kind in (Torch, OnnxRuntime, OpenVino, Jax)
}


def contestants(
    threads: int, names: Sequence[str] | None = None
) -> tuple[list[Peer], dict[str, str]]:
    """Ourselves and the peers of these names (default: all) that can be imported, all with so many
    threads; and why the others are missing.
    """
    found: list[Peer] = [FastRNN(threads)]
    missing = {}
    for name in PEERS if names is None else dict.fromkeys(names):
        try:
            found.append(PEERS[name](threads))
        except ImportError as error:
            missing[name] = str(error)
    return found, missing
