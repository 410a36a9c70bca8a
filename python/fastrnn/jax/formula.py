"""The equations step by step, in JAX's operations: any derivative of any order, any platform."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from fastrnn.jax.kernels import Inputs, Marks, Options, Results


def layer(options: Options, inputs: Inputs, marks: Marks) -> Results:
    """What :func:`fastrnn.jax.kernels.forward` computes."""
    x, h0, c0, weights = inputs
    lengths, mask, reset = marks
    if options.batch_first:
        x = x.swapaxes(0, 1)
        mask, reset = (None if a is None else a.swapaxes(0, 1) for a in (mask, reset))
    ys, hs, cs = [], [], []
    for d, w in enumerate(weights):
        state = tuple(None if s is None else s[d] for s in (h0, c0))
        reverse = options.reverse or d == 1
        y, h, c = _direction(options.cell, reverse, x, state, w, Marks(lengths, mask, reset))
        ys.append(y)
        hs.append(h)
        cs.append(c)
    y = jnp.concatenate(ys, axis=-1)
    if options.batch_first:
        y = y.swapaxes(0, 1)
    return Results(y, jnp.stack(hs), jnp.stack(cs) if options.cell == "lstm" else None)


def _direction(
    cell: str, reverse: bool, x: Any, state: Any, weights: tuple[Array, ...], marks: Marks
) -> tuple[Array, Array, Array]:
    T, B, _ = x.shape
    w_ih, w_hh, *biases = weights
    b_ih, b_hh = biases or (jnp.zeros_like(w_hh[:, 0]),) * 2
    zero = jnp.zeros((B, w_hh.shape[1]), x.dtype)
    h, c = (zero if s is None else s for s in state)
    steps = jnp.arange(T)[:, None]
    inside = jnp.ones((T, B), bool) if marks.lengths is None else steps < marks.lengths
    taken = inside if marks.mask is None else inside & marks.mask
    cleared = jnp.zeros((T, B), bool) if marks.reset is None else inside & marks.reset
    x = jnp.where(taken[..., None], x, 0)  # NaN there would come back in the gradients
    gx = x @ w_ih.T + b_ih

    def step(carry: Any, now: Any) -> tuple[Any, Array]:
        gx, inside, taken, cleared = now
        h, c = (jnp.where(cleared[:, None], 0, s) for s in carry)
        new_h, new_c = _cell(cell, gx, h, c, w_hh, b_hh)
        h = jnp.where(taken[:, None], new_h, h)
        c = jnp.where(taken[:, None], new_c, c)
        return (h, c), jnp.where(inside[:, None], h, 0)

    (h, c), y = jax.lax.scan(step, (h, c), (gx, inside, taken, cleared), reverse=reverse)
    return y, h, c


def _cell(
    cell: str, gx: Array, h: Array, c: Array, w_hh: Array, b_hh: Array
) -> tuple[Array, Array]:
    sigmoid, tanh = jax.nn.sigmoid, jnp.tanh
    H = h.shape[1]
    if cell == "gru_reset_before":
        gh = h @ w_hh[: 2 * H].T + b_hh[: 2 * H]
        r, z = jnp.split(sigmoid(gx[:, : 2 * H] + gh), 2, axis=1)
        n = tanh(gx[:, 2 * H :] + (r * h) @ w_hh[2 * H :].T + b_hh[2 * H :])
        return (1 - z) * n + z * h, c
    gh = h @ w_hh.T + b_hh
    if cell == "gru":
        r, z = jnp.split(sigmoid(gx[:, : 2 * H] + gh[:, : 2 * H]), 2, axis=1)
        n = tanh(gx[:, 2 * H :] + r * gh[:, 2 * H :])
        return (1 - z) * n + z * h, c
    a = gx + gh
    if cell == "lstm":
        i, f, g, o = jnp.split(a, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        return sigmoid(o) * tanh(c), c
    return (tanh(a) if cell == "rnn_tanh" else jax.nn.relu(a)), c
