"""On and off for all layers, and the count of what the kernels computed and what they left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import keras  # type: ignore[import-untyped]

from fastrnn.keras.kernels import NoData, Unsupported
from fastrnn.keras.loop import fused


class Report(NamedTuple):
    """Calls since the last report: how many were fused, and how many were left to Keras, by the
    reason. A traced call (JAX's jit) counts once for all its runs.
    """

    fused: int
    left: dict[str, int]


_CLASSES = (keras.layers.LSTM, keras.layers.GRU, keras.layers.SimpleRNN)
_own: dict[Any, Callable[..., Any] | None] = {}  # a class's inner_loop before enable
_fused = 0
_left: Counter[str] = Counter()


def inner_loop(
    otherwise: Callable[..., Any],
    layer: Any,
    sequences: Any,
    initial_state: Any,
    mask: Any,
    training: bool = False,
) -> Any:
    """A layer's ``inner_loop`` by the kernels, or by ``otherwise`` where they cannot."""
    global _fused
    try:
        found = fused(layer, sequences, initial_state, mask, training)
    except Unsupported as reason:
        if not isinstance(reason, NoData):
            _left[str(reason)] += 1
        return otherwise(sequences, initial_state, mask, training=training)
    _fused += 1
    return found


def enable() -> None:
    """From now on every ``keras.layers.LSTM``, ``GRU`` and ``SimpleRNN``, those that exist too, is
    computed by the fused kernels, wherever these can do what the layer asks for.
    """
    for cls in _CLASSES:
        if cls in _own:
            continue
        _own[cls] = vars(cls).get("inner_loop")
        cls.inner_loop = _method(cls.inner_loop)


def disable() -> None:
    """Undo :func:`enable`."""
    for cls, own in _own.items():
        if own is None:
            del cls.inner_loop
        else:
            cls.inner_loop = own
    _own.clear()


def report() -> Report:
    """What was computed by whom since the last report."""
    global _fused
    found = Report(_fused, dict(_left))
    _fused = 0
    _left.clear()
    return found


def _method(original: Callable[..., Any]) -> Callable[..., Any]:
    def loop(self: Any, *args: Any, **kwargs: Any) -> Any:
        return inner_loop(original.__get__(self), self, *args, **kwargs)

    return loop
