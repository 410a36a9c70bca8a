"""replace(model): fastrnn's RNN for nnx's in a model that is made."""

from __future__ import annotations

from typing import Any, NamedTuple

from flax import nnx

from fastrnn.flax import cells
from fastrnn.flax.rnn import RNN

__all__ = ["Replaced", "replace"]


class Replaced(NamedTuple):
    """What :func:`replace` did, by the paths of ``flax.nnx.iter_modules``, joined by points."""

    replaced: list[str]
    left: dict[str, str]  # path -> why


def replace(model: nnx.Module) -> Replaced:
    """Turn every flax.nnx.RNN inside ``model`` (or ``model`` itself) into :class:`RNN`.

    In place: each module stays the same object with its parameters; only its class changes. A
    Bidirectional needs no other class. Returns what was replaced, and what was left and why.
    """
    done = Replaced([], {})
    for path, module in nnx.iter_modules(model):
        if not isinstance(module, nnx.RNN) or isinstance(module, RNN):
            continue
        name = ".".join(map(str, path))
        if reason := _reason(module):
            done.left[name] = reason
        else:
            module.__class__ = RNN
            done.replaced.append(name)
    return done


def _reason(module: Any) -> str | None:
    """Why a module cannot be replaced."""
    if type(module) is not nnx.RNN:
        return f"{type(module).__module__}.{type(module).__qualname__} is a subclass of nnx.RNN"
    plain: Any = {...: nnx.Carry}
    if module.state_axes != nnx.StateAxes(plain) or module.broadcast_rngs is not None:
        return "RNN: state_axes and broadcast_rngs must be None"
    try:
        cells.kind(module.cell)
    except (TypeError, ValueError) as error:
        return str(error)
    return None
