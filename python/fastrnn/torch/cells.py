"""RNNCell, LSTMCell and GRUCell with the interface of torch.nn's, computed by the core."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.rnn import RNNCellBase

from fastrnn import stack
from fastrnn.torch.eager import unwatched
from fastrnn.torch.layer import eager_layer, step
from fastrnn.torch.leaf import Proxy, as_leaf
from fastrnn.torch.options import Optional
from fastrnn.torch.precision import autocast, computable, convert, dtypes
from fastrnn.torch.spec import OPTIONS, Inputs, Spec, kind_of, plan_of

__all__ = ["GRUCell", "LSTMCell", "RNNCell"]

_threads = torch.get_num_threads  # not looked up at every call
_grad_enabled = torch.is_grad_enabled
_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class _Cell(Optional, RNNCellBase):
    """What the three cells share."""

    _accepted = tuple(n for n in OPTIONS if n not in ("recurrent_dropout", "weight_dropout"))
    _extras: tuple[str, ...] = ()  # names of the options' parameters
    _theirs: Any  # torch.nn's class

    def _kind(self) -> stack.Kind:
        sizes = self.input_size, self.hidden_size
        return kind_of(self._cell(), json.loads(self._options), bias=self.bias, sizes=sizes)

    def _register(self, kind: stack.Kind) -> None:
        like = self.weight_ih
        for name, shape in kind.shapes():
            value = torch.empty(shape, device=like.device, dtype=like.dtype)
            self.register_parameter(name.removesuffix("_l0"), torch.nn.Parameter(value))
        self._extras = tuple(name for name in self._parameters if name not in _NAMES)

    def _weights(self) -> list[Tensor]:
        """The weights as they are now."""
        names = (_NAMES if self.bias else _NAMES[:2]) + self._extras
        if torch.compiler.is_compiling():
            return [getattr(self, name) for name in names]
        parameters: dict[str, Any] = self._parameters
        try:
            return [parameters[name] for name in names]
        except KeyError:  # weight_norm, parametrize, pruning: not a parameter but an attribute
            return [getattr(self, name) for name in names]

    def _spec(self) -> Spec:
        return Spec(self._cell(), options=self._options)

    def _quick_step(
        self, variant: object, input: Tensor, h: Tensor | None, c: Tensor | None
    ) -> Any:
        """The new states, h or (h, c), where nothing about the call is unusual; else None.

        ``variant``: what may change after construction and decides about the core's cell.
        """
        if self._draws or not unwatched(input) or autocast():
            return None
        kept = self._kept.get(variant)
        if kept is None:
            plan = plan_of(self._cell(), False, False, self._options)
            kept = self._keep(variant, (plan, self._layer_caches(1)[0]))
        plan, cache = kept
        if not _grad_enabled():
            return plan.step(_threads(), self._parameters, input, h, c, cache)
        if input.dim() != 2:
            return None
        try:
            states = eager_layer(self._spec(), Inputs(input, self._weights(), h, c), cache)
        except (AttributeError, TypeError, ValueError):
            return None
        return states if len(states) == 2 else states[0]

    def _step(self, input: Tensor, *states: Tensor) -> tuple[Tensor, ...] | None:
        """The new states, or None where the core cannot take these arguments."""
        if isinstance(input, Proxy) or not all(isinstance(s, Tensor) for s in states):
            return None
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
        finals = step(self._spec(), Inputs(input, weights, h, c, seed=self._seed()), cache)
        if returned is not computed:
            finals = tuple(t.to(returned) for t in finals)
        return finals if batched else tuple(s.squeeze(0) for s in finals)

    def _refuse(self, input: Tensor, hx: Any) -> Any:
        """Leave it to torch.nn's class: it computes what the core cannot, and has the words for
        what is wrong.
        """
        if isinstance(input, Proxy):
            return as_leaf(self, input, hx)
        if self.reset_after and not self._options:
            return self._theirs.forward(self, input, hx)
        like = self.weight_ih
        with torch.no_grad():
            self._theirs(
                self.input_size, self.hidden_size, self.bias, device=like.device, dtype=like.dtype
            )(input, hx)
        raise NotImplementedError(
            f"{type(self).__name__}: options beyond torch.nn's are computed on the CPU and on CUDA "
            f"devices, in float16, bfloat16, float32 and float64; got {input.dtype} on "
            f"{input.device}"
        )


def _is_pair(hx: Any) -> bool:
    if type(hx) is not tuple and not isinstance(hx, tuple | list):
        return False
    return len(hx) == 2 and isinstance(hx[0], Tensor) and isinstance(hx[1], Tensor)


class RNNCell(_Cell, torch.nn.RNNCell):
    """:class:`torch.nn.RNNCell` (Elman 1990), computed by fastrnn. Same arguments, names,
    state_dict and errors.
    """

    _theirs = torch.nn.RNNCell

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, nonlinearity, device, dtype, **options)

    def _plain_cell(self) -> str:
        return f"rnn_{self.nonlinearity}"

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """One step. input (B, I) or (I,), hx (B, H) or (H,), None: zeros -> h, shaped as hx."""
        if self.nonlinearity not in ("tanh", "relu"):
            return self._theirs.forward(self, input, hx)
        h: Tensor | None = self._quick_step(self.nonlinearity, input, hx, None)
        if h is not None:
            return h
        finals = self._step(input) if hx is None else self._step(input, hx)
        return self._refuse(input, hx) if finals is None else finals[0]


class LSTMCell(_Cell, torch.nn.LSTMCell):
    """:class:`torch.nn.LSTMCell` (Hochreiter & Schmidhuber 1997), computed by fastrnn. Same
    arguments, names, state_dict and errors.
    """

    _theirs = torch.nn.LSTMCell

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, device, dtype, **options)

    def _plain_cell(self) -> str:
        return "lstm"

    def forward(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """One step. input (B, I) or (I,), hx (h, c), each (B, H) or (H,), None: zeros -> h, c."""
        if hx is None:
            h = c = None
        elif _is_pair(hx):
            h, c = hx
        else:
            return self._refuse(input, hx)  # type: ignore[no-any-return]
        quick: tuple[Tensor, Tensor] | None = self._quick_step(None, input, h, c)
        if quick is not None:
            return quick
        finals = self._step(input) if hx is None else self._step(input, *hx)
        return self._refuse(input, hx) if finals is None else (finals[0], finals[1])


class GRUCell(_Cell, torch.nn.GRUCell):
    """:class:`torch.nn.GRUCell` (Cho et al. 2014), computed by fastrnn. Same arguments, names,
    state_dict and errors.

    ``reset_after=False``: the reset gate acts before the recurrent product, as in version 3 of the
    paper.
    """

    _theirs = torch.nn.GRUCell

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        reset_after: bool = True,
        **options: Any,
    ) -> None:
        if not reset_after:
            self.__dict__["reset_after"] = False  # the options' check is to know
        super().__init__(input_size, hidden_size, bias, device, dtype, **options)

    def _plain_cell(self) -> str:
        return "gru" if self.reset_after else "gru_reset_before"

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """One step. input (B, I) or (I,), hx (B, H) or (H,), None: zeros -> h, shaped as hx."""
        h: Tensor | None = self._quick_step(self.reset_after, input, hx, None)
        if h is not None:
            return h
        finals = self._step(input) if hx is None else self._step(input, hx)
        return self._refuse(input, hx) if finals is None else finals[0]
