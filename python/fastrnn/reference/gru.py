"""The gated recurrent unit of Cho et al., "Learning Phrase Representations using RNN Encoder-
Decoder", in its two forms.

`gru`, the reset gate after the matrix product: the first version of the paper (arXiv:1406.1078v1),
torch.nn.GRU, cuDNN, Keras reset_after=True, ONNX linear_before_reset=1:

    r = sigmoid(gx_r + gh_r)        reset gate
    z = sigmoid(gx_z + gh_z)        update gate
    n = tanh   (gx_n + r gh_n)      candidate, gh_n = W_hn h_(t-1) + b_hn
    h_t = (1 - z) n + z h_(t-1)

`gru_reset_before`, the reset gate before it: the published version (arXiv:1406.1078v3), Keras
reset_after=False, ONNX linear_before_reset=0. The same, but for the candidate, whose product has to
wait for r:

    n = tanh   (gx_n + gh_n)        gh_n = W_hn (r h_(t-1)) + b_hn

Both keep torch's z, the share of the old state; the paper's equation (7) says so too.
"""

from __future__ import annotations

import numpy as np

from .cell import Array, Arrays, Cell, sigmoid


def forward(gx: Arrays, gh: Arrays, prev: Arrays) -> tuple[Arrays, Arrays]:
    (h_prev,) = prev
    r = sigmoid(gx[0] + gh[0])
    z = sigmoid(gx[1] + gh[1])
    n = np.tanh(gx[2] + r * gh[2])
    h = (1.0 - z) * n + z * h_prev
    return (h,), (r, z, n, gh[2])


def backward(prev: Arrays, curr: Arrays, reserve: Arrays, dcurr: Arrays) -> tuple[Arrays, Arrays]:
    (h_prev,), (dh,) = prev, dcurr
    r, z, n, gh_n = reserve
    dz = dh * (h_prev - n) * z * (1.0 - z)
    dgx_n = dh * (1.0 - z) * (1.0 - n * n)
    dgh_n = dgx_n * r
    dr = dgx_n * gh_n * r * (1.0 - r)
    return (dr, dz, dgx_n, dgh_n), (dh * z,)


def forward_early_reset_before(gx: Arrays, gh: Arrays, prev: Arrays) -> tuple[Arrays, Array]:
    (h_prev,) = prev
    r = sigmoid(gx[0] + gh[0])
    z = sigmoid(gx[1] + gh[1])
    return (r, z), r * h_prev


def forward_reset_before(
    gx: Arrays, gh: Arrays, prev: Arrays, r: Array, z: Array
) -> tuple[Arrays, Arrays]:
    (h_prev,) = prev
    n = np.tanh(gx[2] + gh[2])
    h = (1.0 - z) * n + z * h_prev
    return (h,), (r, z, n)


def backward_reset_before(
    prev: Arrays, curr: Arrays, reserve: Arrays, dcurr: Arrays
) -> tuple[Arrays, Arrays]:
    (h_prev,), (dh,) = prev, dcurr
    _, z, n = reserve
    dz = dh * (h_prev - n) * z * (1.0 - z)
    dn = dh * (1.0 - z) * (1.0 - n * n)
    dr = np.zeros_like(dn)  # r acts through the operand alone: see backward_early
    return (dr, dz, dn), (dh * z,)


def backward_early_reset_before(
    prev: Arrays, reserve: Arrays, dgates: Arrays, dprev: Arrays, d_operand: Array
) -> tuple[Arrays, Arrays]:
    (h_prev,), (dh_prev,) = prev, dprev
    r = reserve[0]
    _, dz, dn = dgates
    dr = d_operand * h_prev * r * (1.0 - r)
    return (dr, dz, dn), (dh_prev + d_operand * r,)


GRU = Cell("gru", 3, 1, (0, 1, 2), (0, 1, 3), forward, backward)
GRU_RESET_BEFORE = Cell(
    "gru_reset_before",
    3,
    1,
    (0, 1, 2),
    (0, 1, 2),
    forward_reset_before,
    backward_reset_before,
    early=2,
    forward_early=forward_early_reset_before,
    backward_early=backward_early_reset_before,
)
