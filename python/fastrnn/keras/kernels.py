"""One layer on the tensors of Keras's backend, which must be on the CPU."""

from __future__ import annotations

from typing import Any

import keras  # type: ignore[import-untyped]


class Unsupported(Exception):
    """Why a call is left to Keras."""


class NoData(Unsupported):
    """Shapes alone are wanted: Keras works them out, and there is nothing to report."""


def check_backend(x: Any) -> None:
    backend = keras.backend.backend()
    if backend == "torch":
        if x.is_meta:
            raise NoData
        if not x.is_cpu:
            raise Unsupported(f"tensors on the device {x.device.type}")
    elif backend == "jax":
        from fastrnn.jax.kernels import on_cpu

        if not on_cpu():
            raise Unsupported("JAX on another platform than the CPU")
    elif backend != "numpy":
        raise Unsupported(f"backend {backend}")


def run(
    cell: str, x: Any, states: list[Any], weights: tuple[Any, ...], mask: Any | None
) -> tuple[Any, list[Any]]:
    """x (B, T, I), states h and perhaps c (B, H), weights in torch's layout, mask (B, T) or None
    -> y (B, T, H), states. float32 or float64 throughout.
    """
    backend = keras.backend.backend()
    if backend == "torch":
        from fastrnn.torch.layer import layer
        from fastrnn.torch.spec import Inputs, Spec

        h0, c0 = (*(s.unsqueeze(0) for s in states), None)[:2]
        y, *finals = layer(Spec(cell, batch_first=True), Inputs(x, weights, h0, c0, mask=mask))
        return y, [f.squeeze(0) for f in finals]
    if backend == "jax":
        from fastrnn.jax.kernels import Inputs as JaxInputs
        from fastrnn.jax.kernels import Marks, Options
        from fastrnn.jax.layer import layer as jax_layer

        h0, c0 = (*(s[None] for s in states), None)[:2]
        inputs = JaxInputs(x, h0, c0, (weights,))
        results = jax_layer(Options(cell, True, transposed=True), inputs, Marks(None, mask, None))
        return results.y, [f[0] for f in results[1:] if f is not None]
    import fastrnn

    options: dict[str, Any] = {"h0": states[0], "mask": mask, "batch_first": True, "save": False}
    if cell == "lstm":
        y, finals, _ = fastrnn.lstm_forward(x, *weights, c0=states[1], **options)
        return y, list(finals)
    if cell.startswith("gru"):
        y, h_n, _ = fastrnn.gru_forward(x, *weights, reset_after=cell == "gru", **options)
    else:
        nonlinearity: Any = cell.removeprefix("rnn_")
        y, h_n, _ = fastrnn.rnn_forward(x, *weights, nonlinearity=nonlinearity, **options)
    return y, [h_n]
