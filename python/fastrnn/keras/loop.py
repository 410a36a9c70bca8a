"""What a Keras layer does with its sequence (``inner_loop``), by the kernels and with Keras's
semantics: a masked step repeats the state, ``go_backwards`` gives the outputs as computed.
"""

from __future__ import annotations

from typing import Any

import keras  # type: ignore[import-untyped]
from keras import ops

from fastrnn.keras import kernels
from fastrnn.keras.kernels import Unsupported

Loop = tuple[Any, Any, list[Any]]


def fused(layer: Any, sequences: Any, initial_state: Any, mask: Any, training: bool) -> Loop:
    """-> last output (B, H), outputs (B, T, H) or (B, 1, H), states. Raises Unsupported."""
    kind = _kind(layer)
    if isinstance(mask, list | tuple):
        mask = mask[0]
    states = list(initial_state) if isinstance(initial_state, list | tuple) else [initial_state]
    x = sequences
    if len(x.shape) != 3 or not x.shape[1]:
        raise Unsupported("sequences that are not (B, T, I) with T > 0")
    kernels.check_backend(x)
    if training and layer.cell.recurrent_dropout:
        raise Unsupported("recurrent_dropout while training")
    if training and layer.cell.dropout:
        zeros = layer.cell.get_dropout_mask(x[:, 0, :])
        if isinstance(zeros, list | tuple):
            raise Unsupported("dropout while training with implementation=1")
        x = x * ops.expand_dims(zeros, 1)
    dtype = keras.backend.standardize_dtype(layer.compute_dtype)
    compute = dtype if dtype == "float64" else "float32"
    x, *states = (ops.cast(a, compute) for a in (x, *states))
    weights = tuple(ops.cast(w, compute) for w in _weights(layer.cell, kind))
    if mask is not None:
        mask = ops.cast(mask, "bool")
    if layer.go_backwards:
        x = ops.flip(x, 1)
        mask = None if mask is None else ops.flip(mask, 1)
    y, finals = kernels.run(kind, x, states, weights, mask)
    if mask is not None and layer.zero_output_for_mask:
        y = ops.where(ops.expand_dims(mask, -1), y, ops.zeros_like(y))
    y, *finals = (ops.cast(a, dtype) for a in (y, *finals))
    last = y[:, -1]
    return last, y if layer.return_sequences else ops.expand_dims(last, 1), finals


def _kind(layer: Any) -> str:
    cell, tanh, sigmoid = layer.cell, keras.activations.tanh, keras.activations.sigmoid
    if layer.unroll:
        raise Unsupported("unroll=True")
    if getattr(layer, "use_cudnn", "auto") is False:
        raise Unsupported("use_cudnn=False")
    if type(cell) is keras.layers.SimpleRNNCell:
        if cell.activation is tanh:
            return "rnn_tanh"
        if cell.activation is keras.activations.relu:
            return "rnn_relu"
        raise Unsupported("activation other than tanh and relu")
    if type(cell) not in (keras.layers.LSTMCell, keras.layers.GRUCell):
        raise Unsupported(f"cell {type(cell).__name__}")
    if cell.activation is not tanh:
        raise Unsupported("activation other than tanh")
    if cell.recurrent_activation is not sigmoid:
        raise Unsupported("recurrent_activation other than sigmoid")
    if type(cell) is keras.layers.LSTMCell:
        return "lstm"
    return "gru" if cell.reset_after else "gru_reset_before"


def _weights(cell: Any, kind: str) -> tuple[Any, ...]:
    """w_ih, w_hh, b_ih, b_hh in torch's layout; of a GRU r z n for Keras's z r n."""
    kernel, recurrent = (ops.convert_to_tensor(w) for w in (cell.kernel, cell.recurrent_kernel))
    bias = None if cell.bias is None else ops.convert_to_tensor(cell.bias)
    b_hh = ops.zeros((kernel.shape[1],), kernel.dtype)
    b_ih = b_hh if bias is None else bias
    if bias is not None and len(bias.shape) == 2:
        b_ih, b_hh = bias[0], bias[1]
    arrays = (ops.transpose(kernel), ops.transpose(recurrent), b_ih, b_hh)
    if not kind.startswith("gru"):
        return arrays
    H = recurrent.shape[0]
    return tuple(ops.concatenate([a[H : 2 * H], a[:H], a[2 * H :]]) for a in arrays)
