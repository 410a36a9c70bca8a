"""Two layers, both directions, in float64: forward and every gradient as torch.nn.LSTM, GRU and RNN
have them.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tolerances import assert_close

import fastrnn

T, B, I, H = 13, 5, 7, 19
MODULES = {
    "lstm": (torch.nn.LSTM, {}),
    "gru": (torch.nn.GRU, {}),
    "rnn_tanh": (torch.nn.RNN, {"nonlinearity": "tanh"}),
    "rnn_relu": (torch.nn.RNN, {"nonlinearity": "relu"}),
}


def layer_forward(cell, x, weights, reverse):
    if cell == "lstm":
        return fastrnn.lstm_forward(x, *weights, reverse=reverse)
    if cell == "gru":
        return fastrnn.gru_forward(x, *weights, reverse=reverse)
    return fastrnn.rnn_forward(x, *weights, reverse=reverse, nonlinearity=cell[4:])


@pytest.mark.parametrize("cell", MODULES)
def test_two_bidirectional_layers_equal_torch_in_float64(cell):
    torch.manual_seed(0)
    make, options = MODULES[cell]
    module = make(I, H, num_layers=2, bidirectional=True, dtype=torch.float64, **options)
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    y, state = module(x)
    dy = torch.randn_like(y)
    parameters = dict(module.named_parameters())
    torch_gradients = torch.autograd.grad(y, [x, *parameters.values()], dy)

    backward = getattr(fastrnn, f"{cell[:3] if cell[0] != 'l' else cell}_backward")
    inputs, saved, h_n = x.detach().numpy(), [], []
    for layer in range(2):
        outputs = []
        for suffix in ("", "_reverse"):
            names = [
                f"{kind}_l{layer}{suffix}"
                for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            ]
            weights = [parameters[name].detach().numpy() for name in names]
            out, final, kept = layer_forward(cell, inputs, weights, suffix != "")
            outputs.append(out)
            saved.append((names, kept))
            h_n.append(final[0] if cell == "lstm" else final)
        inputs = np.concatenate(outputs, axis=2)
    assert_close(inputs, y.detach().numpy(), np.float64, "gradient", T, name="y")
    torch_h_n = state[0] if cell == "lstm" else state
    assert_close(np.stack(h_n), torch_h_n.detach().numpy(), np.float64, "gradient", T, name="h_n")

    gradients, upstream = {}, dy.numpy()
    for layer in (1, 0):
        below = 0
        for direction in (0, 1):
            names, kept = saved[2 * layer + direction]
            g = backward(kept, upstream[..., direction * H : (direction + 1) * H])
            gradients |= dict(zip(names, g[1:5], strict=True))
            below = below + g.dx
        upstream = below
    assert_close(upstream, torch_gradients[0].numpy(), np.float64, "gradient", T, name="dx")
    for name, expected in zip(parameters, torch_gradients[1:], strict=True):
        assert_close(gradients[name], expected.numpy(), np.float64, "gradient", T, name=name)
