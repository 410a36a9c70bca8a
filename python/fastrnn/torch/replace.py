"""Existing models: replace(model) for one that is made, patch() for code that makes one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from fastrnn.torch.cells import GRUCell, LSTMCell, RNNCell
from fastrnn.torch.modules import GRU, LSTM, RNN

__all__ = ["Replaced", "patch", "replace"]

_COUNTERPARTS: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    torch.nn.RNN: RNN,
    torch.nn.LSTM: LSTM,
    torch.nn.GRU: GRU,
    torch.nn.RNNCell: RNNCell,
    torch.nn.LSTMCell: LSTMCell,
    torch.nn.GRUCell: GRUCell,
}


class Replaced(NamedTuple):
    """What :func:`replace` did, by the names of ``model.named_modules()``."""

    replaced: dict[str, str]  # name -> class
    left: dict[str, str]  # name -> why


def replace(model: torch.nn.Module) -> Replaced:
    """Turn every torch.nn.RNN, LSTM, GRU and cell inside ``model`` (or ``model`` itself) into
    fastrnn's.

    In place: each module stays the same object, with its Parameters, buffers, hooks and mode; only
    its class changes. So optimizers, tied weights and references from elsewhere stay right.
    Subclasses are left as they are, for what they changed could be lost. Returns what was
    replaced, and what was left and why.
    """
    done = Replaced({}, {})
    for name, module in model.named_modules():
        kind = type(module)
        counterpart = _COUNTERPARTS.get(kind)
        if counterpart is not None:
            module.__class__ = counterpart
            done.replaced[name] = counterpart.__name__
        elif isinstance(module, tuple(_COUNTERPARTS)) and kind not in _COUNTERPARTS.values():
            done.left[name] = f"{kind.__module__}.{kind.__qualname__} is a subclass of torch.nn's"
    return done


@contextmanager
def patch() -> Iterator[None]:
    """Inside, ``torch.nn.LSTM`` and the other five names are fastrnn's: models made there are made
    of them.

    ::

        with fastrnn.torch.patch():
            model = build_model()

    It changes names of the module ``torch.nn`` for all threads, and puts them back at the end. Code
    that bound ``from torch.nn import LSTM`` before keeps torch's class; :func:`replace` its model.
    """
    names = [
        (namespace, kind) for namespace in (torch.nn, torch.nn.modules) for kind in _COUNTERPARTS
    ]
    before = [getattr(namespace, kind.__name__) for namespace, kind in names]
    try:
        for namespace, kind in names:
            setattr(namespace, kind.__name__, _COUNTERPARTS[kind])
        yield
    finally:
        for (namespace, kind), value in zip(names, before, strict=True):
            setattr(namespace, kind.__name__, value)
