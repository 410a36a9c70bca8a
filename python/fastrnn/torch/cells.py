"""RNNCell, LSTMCell and GRUCell with the interface of torch.nn's, computed by the core."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.rnn import RNNCellBase

from fastrnn import _core
from fastrnn.torch.cache import Cached
from fastrnn.torch.layer import eager, step
from fastrnn.torch.precision import autocast, computable, convert, dtypes

__all__ = ["GRUCell", "LSTMCell", "RNNCell"]

_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class _Cell(Cached, RNNCellBase):
    """What the three cells share."""

    _kind: str  # the core's cell

    def _weights(self) -> list[Tensor]:
        """The weights as they are now."""
        names = _NAMES if self.bias else _NAMES[:2]
        if torch.compiler.is_compiling():
            return [getattr(self, name) for name in names]
        parameters: dict[str, Any] = self._parameters
        try:
            return [parameters[name] for name in names]
        except KeyError:  # weight_norm, parametrize, pruning: not a parameter but an attribute
            return [getattr(self, name) for name in names]

    def _quick_step(self, input: Tensor, h: Tensor | None, c: Tensor | None) -> Any:
        """The new states, h or (h, c), where nothing about the call is unusual; else None."""
        if not eager(input) or autocast():
            return None
        if not torch.is_grad_enabled():
            cache = (self._caches or self._layer_caches(1))[0]
            threads = torch.get_num_threads()
            return _core.cell_step(self._kind, threads, self._parameters, input, h, c, cache)
        try:
            states = step(self._kind, input, self._weights(), h, c, self._layer_caches(1)[0])
        except (TypeError, ValueError):
            return None
        return states if c is not None or len(states) == 2 else states[0]

    def _step(self, input: Tensor, *states: Tensor) -> tuple[Tensor, ...] | None:
        """The new states, or None where the core cannot take these arguments."""
        batched = input.dim() == 2
        if not batched:
            if input.dim() != 1 or any(s.dim() != 1 for s in states):
                return None
            input, states = input.unsqueeze(0), tuple(s.unsqueeze(0) for s in states)
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
            input, *rest = convert([input, *states], computed)
            states, weights = tuple(rest), convert(weights, computed)
        h, c = (*states, None, None)[:2]
        cache = None if torch.compiler.is_compiling() else self._layer_caches(1)[0]
        finals = step(self._kind, input, weights, h, c, cache)
        if returned is not computed:
            finals = tuple(t.to(returned) for t in finals)
        return finals if batched else tuple(s.squeeze(0) for s in finals)


def _is_pair(hx: Any) -> bool:
    if type(hx) is not tuple and not isinstance(hx, tuple | list):
        return False
    return len(hx) == 2 and isinstance(hx[0], Tensor) and isinstance(hx[1], Tensor)


class RNNCell(_Cell, torch.nn.RNNCell):
    """:class:`torch.nn.RNNCell` (Elman 1990), computed by fastrnn. Same arguments, names,
    state_dict and errors.
    """

    @property
    def _kind(self) -> str:  # type: ignore[override]
        return f"rnn_{self.nonlinearity}"

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """One step. input (B, I) or (I,), hx (B, H) or (H,), None: zeros -> h, shaped as hx."""
        if self.nonlinearity not in ("tanh", "relu"):
            return super().forward(input, hx)
        h: Tensor | None = self._quick_step(input, hx, None)
        if h is not None:
            return h
        finals = self._step(input) if hx is None else self._step(input, hx)
        return super().forward(input, hx) if finals is None else finals[0]


class LSTMCell(_Cell, torch.nn.LSTMCell):
    """:class:`torch.nn.LSTMCell` (Hochreiter & Schmidhuber 1997), computed by fastrnn. Same
    arguments, names, state_dict and errors.
    """

    _kind = "lstm"

    def forward(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """One step. input (B, I) or (I,), hx (h, c), each (B, H) or (H,), None: zeros -> h, c."""
        if hx is not None and not _is_pair(hx):
            return super().forward(input, hx)
        states = hx or (None, None)
        quick: tuple[Tensor, Tensor] | None = self._quick_step(input, *states)
        if quick is not None:
            return quick
        finals = self._step(input) if hx is None else self._step(input, *hx)
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

    @property
    def _kind(self) -> str:  # type: ignore[override]
        return "gru" if self.reset_after else "gru_reset_before"

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.reset_after else ", reset_after=False")

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """One step. input (B, I) or (I,), hx (B, H) or (H,), None: zeros -> h, shaped as hx."""
        h: Tensor | None = self._quick_step(input, hx, None)
        if h is not None:
            return h
        finals = self._step(input) if hx is None else self._step(input, hx)
        if finals is not None:
            return finals[0]
        h = super().forward(input, hx)  # raises, or computes what the core does not
        if not self.reset_after:
            raise NotImplementedError(
                "GRUCell: reset_after=False is computed on the CPU in float16, bfloat16, float32 "
                f"and float64 alone; got {input.dtype} on {input.device}"
            )
        return h
