"""nnx.RNN and nnx.Bidirectional by the kernels: one call for the whole sequence."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.recurrent import flip_sequences
from jax import Array

from fastrnn.flax import cells
from fastrnn.jax import formula
from fastrnn.jax.kernels import Inputs, Marks, Options, Results
from fastrnn.jax.layer import layer

Backend = Literal["scan"] | None


class RNN(nnx.RNN):
    """``flax.nnx.RNN`` of an LSTMCell, OptimizedLSTMCell, GRUCell or SimpleCell of ``flax.nnx``:
    the same arguments, parameters and results.

    ``unroll`` has no meaning here. ``backend="scan"`` computes by ``jax.lax.scan`` instead of the
    kernels: for platforms that have none.

    Raises TypeError or ValueError for a cell with other functions than sigmoid and tanh
    (SimpleCell: tanh, relu), and for ``state_axes`` and ``broadcast_rngs``: those cells have no
    state but their parameters.
    """

    backend: Backend = None

    def __init__(
        self,
        cell: cells.Cell,
        *,
        time_major: bool = False,
        return_carry: bool = False,
        reverse: bool = False,
        keep_order: bool = False,
        unroll: int = 1,
        state_axes: Mapping[str, Any] | None = None,
        broadcast_rngs: Any = None,
        rngs: nnx.Rngs | nnx.RngStream | bool = True,
        backend: Backend = None,
    ) -> None:
        cells.kind(cell)
        for name, value in (("state_axes", state_axes), ("broadcast_rngs", broadcast_rngs)):
            if value is not None:
                raise ValueError(
                    f"RNN: argument {name!r} must be None, got {value!r}: the cell has no state "
                    "but its parameters"
                )
        if backend not in (None, "scan"):
            raise ValueError(f"RNN: argument 'backend' must be None or 'scan', got {backend!r}")
        super().__init__(
            cell,
            time_major=time_major,
            return_carry=return_carry,
            reverse=reverse,
            keep_order=keep_order,
            unroll=unroll,
            rngs=rngs,
        )
        self.backend = backend

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: Any = None,
        seq_lengths: Array | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ) -> Any:
        """inputs (*batch, T, I), or (T, *batch, I) with ``time_major`` -> y, the same with H for I;
        with ``return_carry`` (carry, y), where carry is (c, h) of an LSTM, h of the others, each
        (*batch, H). ``seq_lengths`` (*batch) ints from 0 to T: beyond them the steps are computed
        too, after the carry was taken.
        """
        return_carry = self.return_carry if return_carry is None else return_carry
        time_major = self.time_major if time_major is None else time_major
        reverse = self.reverse if reverse is None else reverse
        keep_order = self.keep_order if keep_order is None else keep_order
        cell: Any = self.cell
        name = cells.kind(cell)
        inputs = jnp.asarray(inputs)
        batch = _batch(cell, inputs, time_major)
        if initial_carry is None and cell.carry_init is not None:
            initial_carry = cell.initialize_carry(
                (*batch, inputs.shape[-1]), self.rngs if rngs is None else rngs
            )
        carry = None if initial_carry is None else _carry(name, cell, initial_carry, batch)
        lengths = None if seq_lengths is None else _lengths(seq_lengths, batch)
        if not reverse and not return_carry:
            lengths = None  # they tell where to turn round and where to take the carry
        y, carry = _sequence(
            Options(name, not time_major, reverse=reverse, transposed=True),
            (type(cell), getattr(cell, "residual", False), cell.dtype, cell.param_dtype),
            self.backend,
            cells.parameters(cell),
            inputs,
            carry,
            lengths,
        )
        if reverse and not keep_order:
            y = flip_sequences(y, lengths, num_batch_dims=len(batch), time_major=time_major)
        return (carry, y) if return_carry else y


class Bidirectional(nnx.Bidirectional):
    """``flax.nnx.Bidirectional`` of two :class:`RNN`."""

    def __init__(
        self,
        forward_rnn: RNN,
        backward_rnn: RNN,
        *,
        merge_fn: Callable[[Array, Array], Array] | None = None,
        time_major: bool = False,
        return_carry: bool = False,
        rngs: nnx.Rngs | nnx.RngStream | bool = True,
    ) -> None:
        for name, rnn in (("forward_rnn", forward_rnn), ("backward_rnn", backward_rnn)):
            if not isinstance(rnn, RNN):
                raise TypeError(
                    f"Bidirectional: argument {name!r} must be a fastrnn.flax.RNN, "
                    f"got {type(rnn).__module__}.{type(rnn).__qualname__}"
                )
        super().__init__(
            forward_rnn,
            backward_rnn,
            merge_fn=nnx.Bidirectional.merge_fn if merge_fn is None else merge_fn,
            time_major=time_major,
            return_carry=return_carry,
            rngs=rngs,
        )


def _batch(cell: Any, inputs: Array, time_major: bool) -> tuple[int, ...]:
    if inputs.ndim < 2 or inputs.shape[-1] != cell.in_features:
        wanted = "(T, *batch, I)" if time_major else "(*batch, T, I)"
        raise ValueError(
            f"RNN: argument 'inputs' must have shape {wanted} with I = {cell.in_features}, "
            f"got {inputs.shape}"
        )
    return inputs.shape[1:-1] if time_major else inputs.shape[:-2]


def _carry(name: str, cell: Any, carry: Any, batch: tuple[int, ...]) -> tuple[Array, ...]:
    """-> (h,) or (h, c)"""
    if name == "lstm":
        if not isinstance(carry, tuple | list) or len(carry) != 2:
            raise TypeError("RNN: argument 'initial_carry' of an LSTM must be (c, h)")
        carry = carry[::-1]
    else:
        carry = (carry,)
    arrays = tuple(map(jnp.asarray, carry))
    wanted = (*batch, cell.hidden_features)
    for array in arrays:
        if array.shape != wanted:
            raise ValueError(
                "RNN: argument 'initial_carry' must have arrays of shape (*batch, H) = "
                f"{wanted}, got {array.shape}"
            )
    return arrays


def _lengths(seq_lengths: Any, batch: tuple[int, ...]) -> Array:
    lengths: Array = jnp.asarray(seq_lengths)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(
            f"RNN: argument 'seq_lengths' must be of an integer dtype, got {lengths.dtype}"
        )
    if lengths.shape != batch:
        raise ValueError(
            f"RNN: argument 'seq_lengths' must have shape (*batch,) = {batch}, got {lengths.shape}"
        )
    return lengths


@partial(jax.jit, static_argnums=(0, 1, 2))
def _sequence(
    options: Options,
    cell: tuple[type[Any], bool, Any, Any],
    backend: Backend,
    parameters: dict[str, Any],
    x: Array,
    carry: tuple[Array, ...] | None,
    lengths: Array | None,
) -> tuple[Array, Any]:
    """-> y, with each step where its input is, and the carry as nnx has it. carry: (h,), (h, c)."""
    cls, residual, dtype, param_dtype = cell
    if dtype is None:
        dtype = jnp.result_type(x, *jax.tree.leaves((parameters, carry)))
    result = jnp.result_type(dtype, *(carry or (param_dtype,)))
    if not jnp.issubdtype(result, jnp.floating):
        raise TypeError(f"RNN: arrays must be of a real float dtype, got {result}")
    compute = jnp.promote_types(result, jnp.float32)
    x, parameters = jax.tree.map(lambda a: a.astype(dtype).astype(compute), (x, parameters))
    weights = cells.weights(cls, parameters, residual)
    steps, I, H = x.shape[:-1], x.shape[-1], weights[1].shape[1]
    *batch, T = steps if options.batch_first else (*steps[1:], steps[0])
    B = math.prod(batch)
    x = x.reshape((B, T, I) if options.batch_first else (T, B, I))
    h0, c0 = (*(s.astype(compute).reshape(1, B, H) for s in carry or ()), None, None)[:2]
    run = formula.layer if backend == "scan" else layer
    inputs = Inputs(x, h0, c0, (weights,))
    if lengths is None:
        found = run(options, inputs, Marks(None, None, None))
    else:
        found = _beyond_lengths(run, options, inputs, lengths.reshape(B), T)
    y = found.y.reshape(*steps, H).astype(result)
    h, c = (None if s is None else s.reshape(*batch, H).astype(result) for s in found[1:])
    return y, h if c is None else (c, h)


def _beyond_lengths(
    run: Callable[[Options, Inputs, Marks], Results],
    options: Options,
    inputs: Inputs,
    lengths: Array,
    T: int,
) -> Results:
    """The states at the lengths; the steps beyond go on from there, backwards those from the last
    on, as nnx has them.
    """
    found = run(options, inputs, Marks(lengths.astype(jnp.int32), None, None))
    beyond = jnp.arange(T)[:, None] >= lengths
    if options.batch_first:
        beyond = beyond.T
    onward = inputs._replace(h0=found.h_n, c0=found.c_n)
    rest = run(options, onward, Marks(None, beyond, None))
    return found._replace(y=jnp.where(beyond[..., None], rest.y, found.y))
