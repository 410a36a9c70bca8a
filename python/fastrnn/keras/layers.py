"""Keras's layers, always computed by the kernels where these can: for use without ``enable``."""

from __future__ import annotations

from typing import Any

import keras  # type: ignore[import-untyped]

from fastrnn.keras.switch import inner_loop


@keras.saving.register_keras_serializable("fastrnn")
class LSTM(keras.layers.LSTM):  # type: ignore[misc]
    """``keras.layers.LSTM``: the same arguments, weights and results."""

    def inner_loop(self, *args: Any, **kwargs: Any) -> Any:
        return inner_loop(super().inner_loop, self, *args, **kwargs)


@keras.saving.register_keras_serializable("fastrnn")
class GRU(keras.layers.GRU):  # type: ignore[misc]
    """``keras.layers.GRU``: the same arguments, weights and results."""

    def inner_loop(self, *args: Any, **kwargs: Any) -> Any:
        return inner_loop(super().inner_loop, self, *args, **kwargs)


@keras.saving.register_keras_serializable("fastrnn")
class SimpleRNN(keras.layers.SimpleRNN):  # type: ignore[misc]
    """``keras.layers.SimpleRNN``: the same arguments, weights and results."""

    def inner_loop(self, *args: Any, **kwargs: Any) -> Any:
        return inner_loop(super().inner_loop, self, *args, **kwargs)
