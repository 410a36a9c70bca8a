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

Both keep torch's z, the share of the old state; the paper's equation (7) says so too. With a
projection, h_(t-1) in the last line is the unprojected output of the step before (the PGRU of Cheng
et al., "Output-gate projected gated recurrent unit for speech recognition", Interspeech 2018).
"""

from __future__ import annotations

import numpy as np

from .activations import SIGMOID, TANH
from .cell import Array, Arrays, Cell, Parameters
from .gates import Gates


def forward(k: Gates, gx: Arrays, gh: Arrays, prev: Arrays) -> tuple[Arrays, Arrays, Arrays]:
    (h_prev,) = prev
    a_r, a_z = gx[0] + gh[0], gx[1] + gh[1]
    r, z = k.value(0, a_r), k.value(1, a_z)
    a_n = gx[2] + r * gh[2]
    n = k.value(2, a_n)
    h = (1.0 - z) * n + z * h_prev
    return (h,), (a_r, a_z, a_n, gh[2]), (r, z, n)


def backward(
    k: Gates, prev: Arrays, reserve: Arrays, dcurr: Arrays, dvalues: Arrays
) -> tuple[Arrays, Arrays, Parameters]:
    (h_prev,), (dh,) = prev, dcurr
    a_r, a_z, a_n, gh_n = reserve
    r, z, n = k.value(0, a_r), k.value(1, a_z), k.value(2, a_n)
    dz = k.gradient(1, a_z, dh * (h_prev - n) + dvalues[1])
    dgx_n = k.gradient(2, a_n, dh * (1.0 - z) + dvalues[2])
    dgh_n = dgx_n * r
    dr = k.gradient(0, a_r, dgx_n * gh_n + dvalues[0])
    return (dr, dz, dgx_n, dgh_n), (dh * z,), {}


def forward_early_reset_before(
    k: Gates, gx: Arrays, gh: Arrays, hidden: Array
) -> tuple[Arrays, Array, Arrays]:
    a_r, a_z = gx[0] + gh[0], gx[1] + gh[1]
    r = k.value(0, a_r)
    return (r, a_z), r * hidden, (a_r,)


def forward_reset_before(
    k: Gates, gx: Arrays, gh: Arrays, prev: Arrays, r: Array, a_z: Array
) -> tuple[Arrays, Arrays, Arrays]:
    (h_prev,) = prev
    a_n = gx[2] + gh[2]
    z, n = k.value(1, a_z), k.value(2, a_n)
    h = (1.0 - z) * n + z * h_prev
    return (h,), (a_z, a_n), (r, z, n)


def backward_reset_before(
    k: Gates, prev: Arrays, reserve: Arrays, dcurr: Arrays, dvalues: Arrays
) -> tuple[Arrays, Arrays, Parameters]:
    (h_prev,), (dh,) = prev, dcurr
    a_z, a_n = reserve
    z, n = k.value(1, a_z), k.value(2, a_n)
    dz = k.gradient(1, a_z, dh * (h_prev - n) + dvalues[1])
    dn = k.gradient(2, a_n, dh * (1.0 - z) + dvalues[2])
    dr = np.zeros_like(dn)  # r acts through the operand alone: see backward_early
    return (dr, dz, dn), (dh * z,), {}


def backward_early_reset_before(
    k: Gates, hidden: Array, kept: Arrays, dgates: Arrays, d_operand: Array, dvalues: Arrays
) -> tuple[Arrays, Array]:
    (a_r,) = kept
    _, dz, dn = dgates
    dr = k.gradient(0, a_r, d_operand * hidden + dvalues[0])
    return (dr, dz, dn), d_operand * k.value(0, a_r)


ACTIVATIONS = (SIGMOID, SIGMOID, TANH)

GRU = Cell("gru", 3, 1, (0, 1, 2), (0, 1, 3), forward, backward, ACTIVATIONS)
GRU_RESET_BEFORE = Cell(
    "gru_reset_before",
    3,
    1,
    (0, 1, 2),
    (0, 1, 2),
    forward_reset_before,
    backward_reset_before,
    ACTIVATIONS,
    early=2,
    forward_early=forward_early_reset_before,
    backward_early=backward_early_reset_before,
)
