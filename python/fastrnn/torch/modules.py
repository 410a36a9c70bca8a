"""RNN, LSTM and GRU with the interface of torch.nn's, computed by the core.

Whatever the core does not compute (another device, another dtype, a wrong shape) goes to the
forward of torch.nn's class, which computes it or says in its own words what is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import dropout
from torch.nn.modules.rnn import RNNBase
from torch.nn.utils.rnn import PackedSequence

from fastrnn import stack
from fastrnn.torch.cache import WeightCache
from fastrnn.torch.eager import eager
from fastrnn.torch.layer import eager_layer, layer
from fastrnn.torch.leaf import Proxy, as_leaf
from fastrnn.torch.options import Optional
from fastrnn.torch.precision import autocast, computable, convert, dtypes
from fastrnn.torch.rows import Rows
from fastrnn.torch.spec import Inputs, Spec, kind_of

__all__ = ["GRU", "LSTM", "RNN"]

_CELLS = {"LSTM": "lstm", "GRU": "gru", "RNN_TANH": "rnn_tanh", "RNN_RELU": "rnn_relu"}

Marks = tuple[Tensor | None, Tensor | None, Tensor | None]
_NO_MARKS: Marks = (None, None, None)


class _Recurrent(Optional, RNNBase):
    """What the three modules share. States travel as a list here: [h] or [h, c]."""

    recompute = False  # on the class, so that modules that torch.nn's class made have it too

    def __init__(self, *args: Any, recompute: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not isinstance(recompute, bool):
            raise TypeError(f"{type(self).__name__}: recompute must be a bool, got {recompute!r}")
        self.recompute = recompute

    def _kind(self) -> stack.Kind:
        return kind_of(
            self._cell(),
            json.loads(self._options),
            bias=self.bias,
            proj_size=self.proj_size,
            sizes=(self.input_size, self.hidden_size),
            levels=self.num_layers,
            directions=2 if self.bidirectional else 1,
        )

    def _register(self, kind: stack.Kind) -> None:
        like = self.get_parameter("weight_ih_l0")
        shapes = dict(kind.shapes())
        each = len(shapes) // (kind.directions * self.num_layers)
        names = list(shapes)
        self._parameters.clear()
        for name, shape in shapes.items():
            value = torch.empty(shape, device=like.device, dtype=like.dtype)
            self.register_parameter(name, torch.nn.Parameter(value))
        self._flat_weights_names = names
        self._all_weights = [names[i : i + each] for i in range(0, len(names), each)]
        self._init_flat_weights()

    def extra_repr(self) -> str:
        return super().extra_repr() + (", recompute=True" if self.recompute else "")

    def forward(  # type: ignore[no-untyped-def]
        self,
        input,
        hx=None,
        *,
        lengths: Tensor | None = None,
        mask: Tensor | None = None,
        reset: Tensor | None = None,
    ):
        """Run the whole sequence.

        Args:
            input: (T, B, I), with ``batch_first`` (B, T, I); (T, I) without a batch; or a
                PackedSequence.
            hx: the initial state h0 (L*D, B, H), for the LSTM the pair (h0, c0); (L*D, H) without
                a batch; None: zeros.
            lengths: (B,) ints in any order, 0 allowed: row b ends after ``lengths[b]`` steps. The
                output beyond is 0 and passes no gradient; the final state is the one after the
                last step of each row.
            mask: bool (T, B), with ``batch_first`` (B, T): False skips the step and carries the
                state over.
            reset: bool, shaped as mask: True sets the state to zero before the step; no gradient
                crosses.

        Returns:
            output (T, B, D*H) and h_n (L*D, B, H), for the LSTM (h_n, c_n); laid out as the input
            is.

        Raises:
            ValueError, RuntimeError: as torch.nn's class does, in the same words.
            TypeError, ValueError: for a dtype, shape or value of lengths, mask or reset that does
            not fit.
        """
        if isinstance(input, PackedSequence):
            if lengths is not None or mask is not None or reset is not None:
                raise ValueError(
                    f"{type(self).__name__}: a PackedSequence cannot be combined with lengths, "
                    "mask or reset"
                )
            return self._forward_packed(input, hx)
        marked = lengths is not None or mask is not None or reset is not None
        seed = self._seed()
        if not marked and eager(input) and not autocast():
            result = self._quick(input, hx, seed)
            if result is not None:
                return result
        if isinstance(input, Proxy):
            return as_leaf(self, input, hx, lengths=lengths, mask=mask, reset=reset)
        batched = input.dim() == 3
        states = self._states(hx)
        if batched:
            x, batch_first = input, self.batch_first
        elif input.dim() == 2 and states is not None and all(s.dim() == 2 for s in states):
            x, batch_first = input.unsqueeze(1), False
            states = [s.unsqueeze(1) for s in states]
        else:
            return self._refuse(input, hx, marked)
        weights = self._weights()
        kinds = self._kinds(x, states, weights, x.size(0) if batch_first else x.size(1))
        if kinds is None or x.size(1 if batch_first else 0) == 0:
            return self._refuse(input, hx, marked)
        marks = self._marks(x, batched, lengths, mask, reset) if marked else _NO_MARKS

        computed, returned = kinds
        if x.dtype is not computed or returned is not computed:
            x, *states = convert([x, *states], computed)  # type: ignore[misc]
            weights = convert(weights, computed)
        y, finals = self._run(x, states, weights, marks, batch_first, seed)
        if returned is not computed:
            y, *finals = convert([y, *finals], returned)
        if not batched:
            y, *finals = (t.squeeze(1) for t in (y, *finals))
        return y, self._hx(finals)

    def _quick(self, x: Tensor, hx: Any, seed: Tensor | None) -> Any:
        """The result, where nothing about the call is unusual; else None."""
        states = self._states(hx)
        if states is None:
            return None
        weights = self._weights()
        layers, batch_first = self.num_layers, self.batch_first
        variant = (
            self.mode,
            layers,
            batch_first,
            self.bidirectional,
            self.reset_after,
            self.recompute,
        )
        kept = self._kept.get(variant)
        if kept is None:
            spec = self._spec(batch_first)
            kept = self._keep(variant, (spec, spec.plan, self._layer_caches(layers)))
        spec, plan, caches = kept
        result: Any
        if torch.is_grad_enabled():
            if layers > 1 or x.dim() != 3 or x.shape[batch_first] == 0:
                return None
            inputs = Inputs(x, weights, *_pair(states), seed=seed)
            try:
                result = eager_layer(spec, inputs, caches[0])
            except (TypeError, ValueError):
                return None  # to be read in another way, or refused in the words of torch
        elif seed is not None or (self.training and self.dropout > 0 and layers > 1):
            return None
        else:
            result = plan.stack(torch.get_num_threads(), x, weights, *_pair(states), caches)
        if result is None or len(result) == 2:
            return result
        y, h_n, c_n = result
        return y, (h_n, c_n)

    def _forward_packed(self, packed: PackedSequence, hx: Any) -> Any:
        data, batch_sizes, sorted_indices, unsorted_indices = packed
        states, weights = self._states(hx), self._weights()
        T = batch_sizes.size(0)
        if sorted_indices is not None:
            B = sorted_indices.size(0)  # known to torch.compile
        else:
            B = int(batch_sizes[0]) if T else 0
        kinds = self._kinds(data.unsqueeze(0), states, weights, B) if data.dim() == 2 else None
        if kinds is None or T == 0:
            return self._refuse(packed, hx, False)
        assert states is not None
        if sorted_indices is not None:
            states = [s.index_select(1, sorted_indices) for s in states]
        computed, returned = kinds
        if data.dtype is not computed or returned is not computed:
            data, *states = convert([data, *states], computed)
            weights = convert(weights, computed)
        seed = self._seed()
        if data.is_cpu and eager(data) and not self.recompute:
            sizes = batch_sizes.to("cpu", torch.int64, copy=True)  # ours: backward needs it again
            y, finals = self._run(data, states, weights, _NO_MARKS, False, seed, packed=sizes)
        else:
            rows = Rows(batch_sizes, data.size(0), B)
            marks: Marks = (rows.lengths, None, None)
            y, finals = self._run(rows.pad(data), states, weights, marks, False, seed, rows=rows)
            y = rows.pack(y)
        if returned is not computed:
            y, *finals = convert([y, *finals], returned)
        if unsorted_indices is not None:
            finals = [s.index_select(1, unsorted_indices) for s in finals]
        return PackedSequence(y, batch_sizes, sorted_indices, unsorted_indices), self._hx(finals)

    def _run(
        self,
        x: Tensor,
        states: Sequence[Tensor] | None,
        weights: Sequence[Tensor],
        marks: Marks,
        batch_first: bool,
        seed: Tensor | None,
        *,
        rows: Rows | None = None,
        packed: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """All layers. -> y, [h_n] or [h_n, c_n]

        Of a packed sequence x is padded by ``rows``, or its data, and ``packed`` its batch_sizes.
        """
        layers, D = self.num_layers, 2 if self.bidirectional else 1
        each = len(weights) // layers
        caches: Sequence[WeightCache | None] = [None] * layers
        if not torch.compiler.is_compiling():
            caches = self._layer_caches(layers)
        per_layer: list[Sequence[Tensor]] = []
        for index in range(layers):
            own = weights[index * each : (index + 1) * each]
            given = [s[index * D : (index + 1) * D] for s in states] if states else None
            inputs = Inputs(x, own, *_pair(given), *marks, seed)
            x, *finals = layer(self._spec(batch_first, index), inputs, caches[index], packed)
            if layers == 1:
                return x, finals
            per_layer.append(finals)
            if self.dropout > 0 and self.training and index + 1 < layers:
                x = _dropout(x, self.dropout, batch_first, rows)
        return x, [torch.cat(parts) for parts in zip(*per_layer, strict=True)]

    # ------------------------------------------------------------------ what came

    def _plain_cell(self) -> str:
        return _CELLS[self.mode] if self.reset_after else "gru_reset_before"

    def _spec(self, batch_first: bool, level: int = 0) -> Spec:
        return Spec(
            self._cell(), batch_first, self.bidirectional, self._options, level, self.recompute
        )

    def _states(self, hx: Any) -> list[Tensor] | None:
        """hx as a list, empty for None; None where it is not what it should be."""
        if hx is None:
            return []
        if self.mode != "LSTM":
            return [hx] if isinstance(hx, Tensor) else None
        pair = isinstance(hx, tuple | list) and len(hx) == 2
        return list(hx) if pair and all(isinstance(s, Tensor) for s in hx) else None

    def _hx(self, states: Sequence[Tensor]) -> Any:
        return (states[0], states[1]) if len(states) == 2 else states[0]

    def _weights(self) -> list[Tensor]:
        """The weights as they are now; never a list kept from before, which could be stale."""
        if torch.compiler.is_compiling():
            return [getattr(self, name) for name in self._flat_weights_names]
        parameters: dict[str, Any] = self._parameters
        try:
            return [parameters[name] for name in self._flat_weights_names]
        except KeyError:  # weight_norm, parametrize, pruning: not a parameter but an attribute
            return [getattr(self, name) for name in self._flat_weights_names]

    def _kinds(
        self, x: Tensor, states: Sequence[Tensor] | None, weights: Sequence[Tensor], batch: int
    ) -> tuple[torch.dtype, torch.dtype] | None:
        """What `dtypes` says, or None where the core cannot take these."""
        if states is None or x.size(2) != self.input_size or not computable(x, weights[0]):
            return None
        if states:
            rows = self.num_layers * (2 if self.bidirectional else 1)
            units = self.proj_size or self.hidden_size, self.hidden_size
            for s, size in zip(states, units, strict=False):
                if s.shape != (rows, batch, size) or s.device != x.device:
                    return None
        return dtypes(x, states, weights)

    def _marks(
        self,
        x: Tensor,
        batched: bool,
        lengths: Tensor | None,
        mask: Tensor | None,
        reset: Tensor | None,
    ) -> Marks:
        name = type(self).__name__
        if not batched:
            raise ValueError(
                f"{name}: lengths, mask and reset need an input with a batch dimension"
            )
        rows, columns = x.shape[0], x.shape[1]
        if lengths is not None:
            lengths = torch.as_tensor(lengths, device=x.device)
            if lengths.is_floating_point() or lengths.is_complex() or lengths.dtype is torch.bool:
                raise TypeError(f"{name}: lengths must be of an integer dtype, got {lengths.dtype}")
            B = rows if self.batch_first else columns
            if lengths.shape != (B,):
                raise ValueError(
                    f"{name}: lengths must be of shape (B,) = ({B},), got {tuple(lengths.shape)}"
                )
        symbols = "(B, T)" if self.batch_first else "(T, B)"
        for argument, flags in (("mask", mask), ("reset", reset)):
            if flags is None:
                continue
            if not isinstance(flags, Tensor) or flags.dtype is not torch.bool:
                kind = flags.dtype if isinstance(flags, Tensor) else type(flags).__name__
                raise TypeError(f"{name}: {argument} must be a tensor of dtype bool, got {kind}")
            if flags.shape != (rows, columns):
                raise ValueError(
                    f"{name}: {argument} must be of shape {symbols} = ({rows}, {columns}), "
                    f"got {tuple(flags.shape)}"
                )
            if flags.device != x.device:
                raise ValueError(f"{name}: {argument} must be on {x.device}, got {flags.device}")
        return lengths, mask, reset

    def _refuse(self, input: Any, hx: Any, marked: bool) -> Any:
        """Leave it to torch.nn's class: it computes what the core cannot, and has the words for
        what is wrong.
        """
        if marked or not self.reset_after or self._options:
            if isinstance(input, PackedSequence):
                input = input.data
            device = input.device
            if device.type in ("cpu", "meta"):
                self._raise_as_torch(input, hx)
            raise NotImplementedError(
                f"{type(self).__name__}: options beyond torch.nn's are computed on the CPU and on "
                f"CUDA devices, in float16, bfloat16, float32 and float64; got {input.dtype} on "
                f"{device}"
            )
        return super().forward(input, hx)

    def _raise_as_torch(self, input: Tensor, hx: Any) -> None:
        """What torch.nn's class raises for this input and state; nothing if it raises nothing."""
        like = self._weights()[0]
        names = "input_size", "hidden_size", "num_layers", "bias", "batch_first", "bidirectional"
        arguments: dict[str, Any] = {name: getattr(self, name) for name in names}
        if self.mode == "LSTM":
            arguments["proj_size"] = self.proj_size
        kind = {"LSTM": torch.nn.LSTM, "GRU": torch.nn.GRU}.get(self.mode, torch.nn.RNN)
        with torch.no_grad():
            kind(**arguments, device=like.device, dtype=like.dtype)(input, hx)


def _pair(states: Sequence[Tensor] | None) -> tuple[Tensor | None, Tensor | None]:
    if not states:
        return None, None
    return states[0], states[1] if len(states) == 2 else None


def _dropout(x: Tensor, p: float, batch_first: bool, rows: Rows | None) -> Tensor:
    """Dropout as torch.nn's modules draw it, in the order of memory of (T, B, D*H): the same seed,
    the same zeros.
    """
    if rows is not None:
        return rows.pad(dropout(rows.pack(x), p))
    if batch_first:
        return dropout(x.transpose(0, 1).contiguous(), p).transpose(0, 1)
    return dropout(x, p)


class RNN(_Recurrent, torch.nn.RNN):
    """:class:`torch.nn.RNN` (Elman 1990), computed by fastrnn. Same arguments, names, state_dict
    and errors.

    By keyword alone: ``activations``, ``clip``, ``layer_norm``, ``zoneout``, ``recurrent_dropout``,
    ``weight_dropout`` as in :class:`fastrnn.RNN`, with masks from torch's generator, and
    ``recompute=True`` to train in little memory (``save="recompute"`` of the functional interface).
    ``forward`` also takes ``lengths=``, ``mask=`` and ``reset=``.
    """


class LSTM(_Recurrent, torch.nn.LSTM):
    """:class:`torch.nn.LSTM` (Hochreiter & Schmidhuber 1997; with ``proj_size`` Sak et al. 2014),
    computed by fastrnn. Same arguments, names, state_dict and errors.

    By keyword alone: the options of :class:`RNN`, and ``peephole``, ``coupled``, ``cell_clip``.
    ``forward`` also takes ``lengths=``, ``mask=`` and ``reset=``.
    """


class GRU(_Recurrent, torch.nn.GRU):
    """:class:`torch.nn.GRU` (Cho et al. 2014), computed by fastrnn. Same arguments, names,
    state_dict and errors.

    ``reset_after=False``: the reset gate acts before the recurrent product, n = tanh(W_in x + b_in
    + W_hn (r * h) + b_hn), as in version 3 of the paper. Further the options of :class:`RNN`.
    ``forward`` also takes ``lengths=``, ``mask=`` and ``reset=``.
    """

    def __init__(self, *args: Any, reset_after: bool = True, **kwargs: Any) -> None:
        if not reset_after:
            self.__dict__["reset_after"] = False  # the options' check is to know
        super().__init__(*args, **kwargs)
