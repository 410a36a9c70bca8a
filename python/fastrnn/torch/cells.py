"""RNNCell, LSTMCell and GRUCell with the interface of torch.nn's, computed by the core."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.rnn import RNNCellBase

from fastrnn.torch.layer import step
from fastrnn.torch.precision import computable, convert, dtypes

__all__ = ["GRUCell", "LSTMCell", "RNNCell"]

_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class _Cell(RNNCellBase):
    """What the three cells share. States travel as a list here: [h] or [h, c]."""

    def _cell(self) -> str:
        raise NotImplementedError

    def _weights(self) -> list[Tensor]:
        """The weights as they are now."""
        names = _NAMES if self.bias else _NAMES[:2]
        if torch.compiler.is_compiling():
            return [getattr(self, name) for name in names]
        parameters = self._parameters
        weights = []
        for name in names:
            weight = parameters.get(name)
            weights.append(getattr(self, name) if weight is None else weight)
        return weights

    def _step(self, input: Tensor, states: Sequence[Tensor]) -> list[Tensor] | None:
        """The new states, or None where the core cannot take these arguments."""
        batched = input.dim() == 2
        if not batched:
            if input.dim() != 1 or any(s.dim() != 1 for s in states):
                return None
            input, states = input.unsqueeze(0), [s.unsqueeze(0) for s in states]
        weights = self._weights()
        if input.size(1) != self.input_size or not computable(input, weights[0]):
            return None
        shape = (input.size(0), self.hidden_size)
        for s in states:
            if s.shape != shape or s.device != input.device:
                return None
        kinds = dtypes(input, states, weights)
        if kinds is None:
            return None
        computed, returned = kinds
        if input.dtype is not computed or returned is not computed:
            input, *states = convert([input, *states], computed)
            weights = convert(weights, computed)
        finals = step(self._cell(), input, weights, *(states or (None,)))
        if returned is not computed:
            finals = tuple(convert(finals, returned))
        return list(finals) if batched else [s.squeeze(0) for s in finals]


def _is_tensors(hx: Any, count: int) -> bool:
    return (
        isinstance(hx, tuple | list) and len(hx) == count and all(isinstance(s, Tensor) for s in hx)
    )


class RNNCell(_Cell, torch.nn.RNNCell):
    """:class:`torch.nn.RNNCell` (Elman 1990), computed by fastrnn. Same arguments, names,
    state_dict and errors.
    """

    def _cell(self) -> str:
        return f"rnn_{self.nonlinearity}"

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """One step. input (B, I) or (I,), hx (B, H) or (H,), None: zeros -> h, shaped as hx."""
        states = [] if hx is None else [hx]
        finals = self._step(input, states) if self.nonlinearity in ("tanh", "relu") else None
        return super().forward(input, hx) if finals is None else finals[0]


class LSTMCell(_Cell, torch.nn.LSTMCell):
    """:class:`torch.nn.LSTMCell` (Hochreiter & Schmidhuber 1997), computed by fastrnn. Same
    arguments, names, state_dict and errors.
    """

    def _cell(self) -> str:
        return "lstm"

    def forward(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """One step. input (B, I) or (I,), hx (h, c), each (B, H) or (H,), None: zeros -> h, c."""
        usable = hx is None or _is_tensors(hx, 2)
        finals = self._step(input, hx or ()) if usable else None
        return super().forward(input, hx) if finals is None else (finals[0], finals[1])


class GRUCell(_Cell, torch.nn.GRUCell):
    """:class:`torch.nn.GRUCell` (Cho et al. 2014), computed by fastrnn. Same arguments, names,
    state_dict and errors.

    ``reset_after=False``: the reset gate acts before the recurrent product, as in version 3 of the
    paper.
    """

    reset_after = True

    def __init__(self, *args: Any, reset_after: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not reset_after:
            self.reset_after = False

    def _cell(self) -> str:
        return "gru" if self.reset_after else "gru_reset_before"

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.reset_after else ", reset_after=False")

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """One step. input (B, I) or (I,), hx (B, H) or (H,), None: zeros -> h, shaped as hx."""
        finals = self._step(input, [] if hx is None else [hx])
        if finals is not None:
            return finals[0]
        h = super().forward(input, hx)  # raises, or computes what the core does not
        if not self.reset_after:
            raise NotImplementedError(
                "GRUCell: reset_after=False is computed on the CPU in float16, bfloat16, float32 "
                f"and float64 alone; got {input.dtype} on {input.device}"
            )
        return h
