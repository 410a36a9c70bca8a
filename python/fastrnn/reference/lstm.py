"""Long short-term memory: Hochreiter & Schmidhuber, Neural Computation 9(8), 1997; the forget gate
from Gers, Schmidhuber & Cummins, "Learning to Forget", Neural Computation 12(10), 2000.
torch.nn.LSTM.

    i = sigmoid(gx_i + gh_i + p_i c_(t-1))      input gate
    f = sigmoid(gx_f + gh_f + p_f c_(t-1))      forget gate
    g = tanh   (gx_g + gh_g)                    candidate
    c_t = f c_(t-1) + i g                       clipped, normalised where asked for
    o = sigmoid(gx_o + gh_o + p_o c_t)          output gate
    h_t = o tanh(c_t)                           of the normalised c_t where asked for

p are the peepholes, 0 without them. The coupled form has no forget gate of its own: f = 1 - i
(Greff et al., "LSTM: A Search Space Odyssey", IEEE TNNLS 28(10), 2017, CIFG; ONNX input_forget=1).
"""

from __future__ import annotations

import numpy as np

from .activations import SIGMOID, TANH
from .cell import NOTHING, Array, Arrays, Cell, Parameters
from .gates import Gates


def forward(k: Gates, gx: Arrays, gh: Arrays, prev: Arrays) -> tuple[Arrays, Arrays, Arrays]:
    _, c_prev = prev
    a_i = gx[0] + gh[0] + k.weight(0) * c_prev
    a_f = gx[1] + gh[1] + k.weight(1) * c_prev
    a_g = gx[2] + gh[2]
    i, f, g = k.value(0, a_i), k.value(1, a_f), k.value(2, a_g)
    raw = f * c_prev + i * g
    c, u = state_and_input_of_output(k, raw)
    a_o = gx[3] + gh[3] + k.weight(2) * c
    o = k.value(3, a_o)
    h = o * k.activations[4].value(u)
    return (h, c), (a_i, a_f, a_g, a_o), (i, f, g, o)


def backward(
    k: Gates, prev: Arrays, reserve: Arrays, dcurr: Arrays, dvalues: Arrays
) -> tuple[Arrays, Arrays, Parameters]:
    _, c_prev = prev
    a_i, a_f, a_g, a_o = reserve
    i, f, g = k.value(0, a_i), k.value(1, a_f), k.value(2, a_g)
    do, dc, parameters = backward_output(k, 3, f * c_prev + i * g, a_o, dcurr, dvalues[3])
    di = k.gradient(0, a_i, dc * g + dvalues[0])
    df = k.gradient(1, a_f, dc * c_prev + dvalues[1])
    dg = k.gradient(2, a_g, dc * i + dvalues[2])
    dc_prev = dc * f + di * k.weight(0) + df * k.weight(1)
    if k.peephole is not None:
        parameters["peephole"] = np.stack(
            [(di * c_prev).sum(axis=0), (df * c_prev).sum(axis=0), parameters.pop("p_o")]
        )
    return (di, df, dg, do), (NOTHING, dc_prev), parameters


def forward_coupled(
    k: Gates, gx: Arrays, gh: Arrays, prev: Arrays
) -> tuple[Arrays, Arrays, Arrays]:
    _, c_prev = prev
    a_i = gx[0] + gh[0] + k.weight(0) * c_prev
    a_g = gx[1] + gh[1]
    i, g = k.value(0, a_i), k.value(1, a_g)
    raw = (1.0 - i) * c_prev + i * g
    c, u = state_and_input_of_output(k, raw)
    a_o = gx[2] + gh[2] + k.weight(1) * c
    o = k.value(2, a_o)
    h = o * k.activations[3].value(u)
    return (h, c), (a_i, a_g, a_o), (i, g, o)


def backward_coupled(
    k: Gates, prev: Arrays, reserve: Arrays, dcurr: Arrays, dvalues: Arrays
) -> tuple[Arrays, Arrays, Parameters]:
    _, c_prev = prev
    a_i, a_g, a_o = reserve
    i, g = k.value(0, a_i), k.value(1, a_g)
    raw = (1.0 - i) * c_prev + i * g
    do, dc, parameters = backward_output(k, 2, raw, a_o, dcurr, dvalues[2])
    di = k.gradient(0, a_i, dc * (g - c_prev) + dvalues[0])
    dg = k.gradient(1, a_g, dc * i + dvalues[1])
    dc_prev = dc * (1.0 - i) + di * k.weight(0)
    if k.peephole is not None:
        parameters["peephole"] = np.stack([(di * c_prev).sum(axis=0), parameters.pop("p_o")])
    return (di, dg, do), (NOTHING, dc_prev), parameters


def state_and_input_of_output(k: Gates, raw: Array) -> tuple[Array, Array]:
    """f c_(t-1) + i g -> c_t, and what the output's activation is applied to."""
    c, _ = k.normalised(k.clipped(raw)[0], "state")
    return c, k.normalised(c, "output")[0]


def backward_output(
    k: Gates, gate: int, raw: Array, a_o: Array, dcurr: Arrays, dvalue: Array
) -> tuple[Array, Array, Parameters]:
    """Gradients of the output gate before its activation and of f c_(t-1) + i g."""
    dh, dc = dcurr
    parameters: Parameters = {}
    clipped, inside = k.clipped(raw)
    c, state_norm = k.normalised(clipped, "state")
    u, output_norm = k.normalised(c, "output")
    output = k.activations[gate + 1]
    do = k.gradient(gate, a_o, dh * output.value(u) + dvalue)
    du = dh * k.value(gate, a_o) * output.slope(u)
    dc = dc + k.denormalised(du, output_norm, parameters) + do * k.weight(gate - 1)
    parameters["p_o"] = (do * c).sum(axis=0)
    return do, k.denormalised(dc, state_norm, parameters) * inside, parameters


LSTM = Cell(
    "lstm",
    4,
    2,
    (0, 1, 2, 3),
    (0, 1, 2, 3),
    forward,
    backward,
    (SIGMOID, SIGMOID, TANH, SIGMOID, TANH),
)
LSTM_COUPLED = Cell(
    "lstm_coupled",
    3,
    2,
    (0, 1, 2),
    (0, 1, 2),
    forward_coupled,
    backward_coupled,
    (SIGMOID, TANH, SIGMOID, TANH),
)
