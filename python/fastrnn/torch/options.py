"""The keyword arguments of modules and cells beyond torch.nn's, and what follows from them: the
core's cell, parameters, repr, the seed of a call's masks.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastrnn import stack
from fastrnn.torch.cache import Cached
from fastrnn.torch.spec import OPTIONS, as_text

__all__ = ["Optional"]

_SEEDS = 2**63 - 1


class Optional(Cached):
    """A module that takes them."""

    _accepted: ClassVar[tuple[str, ...]] = OPTIONS
    # on the class, so that modules that torch.nn's class made have them too
    reset_after = True  # of the GRU
    _options = ""  # as Spec has them
    _coupled = False
    _draws = False  # whether a training forward takes masks

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given: Any = {name: kwargs.pop(name) for name in OPTIONS if name in kwargs}
        super().__init__(*args, **kwargs)
        name = type(self).__name__
        for option in given:
            if option not in self._accepted:
                raise TypeError(
                    f"{name}: {option} has one mask for a whole sequence: use {name[:-4]}"
                )
        self._options = as_text(stack.checked(name, given))
        if self._options:
            self._coupled = bool(given.get("coupled")) and self._plain_cell() == "lstm"
            kind = self._kind()
            kind.check(name, float)
            self._draws = kind.draws
            self._register(kind)
            self.reset_parameters()

    def _plain_cell(self) -> str:
        """The core's, without options."""
        raise NotImplementedError

    def _kind(self) -> stack.Kind:
        raise NotImplementedError

    def _register(self, kind: stack.Kind) -> None:
        """The parameters of a layer with options, in place of those of torch.nn's class."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Draw all parameters anew, as torch.nn's class does; gains are 1, their offsets 0."""
        super().reset_parameters()  # type: ignore[misc]
        for name, parameter in self.named_parameters(recurse=False):
            if name.startswith("gain_"):
                torch.nn.init.ones_(parameter)
            elif name.startswith("bias_c"):
                torch.nn.init.zeros_(parameter)

    def extra_repr(self) -> str:
        options = json.loads(self._options) if self._options else {}
        shown = "".join(f", {name}={_frozen(value)!r}" for name, value in options.items())
        return super().extra_repr() + shown + ("" if self.reset_after else ", reset_after=False")

    def _cell(self) -> str:
        """The core's."""
        return "lstm_coupled" if self._coupled else self._plain_cell()

    def _seed(self) -> Tensor | None:
        """Of the masks of this call, from torch's generator; None where there are none."""
        return torch.randint(_SEEDS, ()) if self._draws and self.training else None


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
