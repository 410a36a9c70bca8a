"""Let torch.compile see our modules.

Dynamo refuses every instance of torch.nn.RNN, LSTM and GRU, subclasses too and whatever their
forward does, unless ``torch._dynamo.config.allow_rnn`` is set. Importing Dynamo takes longer than
importing torch, so it is set when somebody else imports it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

__all__ = ["allow_rnn"]

_CONFIG = "torch._dynamo.config"


class _WhenImported(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _CONFIG:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                module.allow_rnn = True  # type: ignore[attr-defined]

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def allow_rnn() -> None:
    """Set ``torch._dynamo.config.allow_rnn``, now or as soon as it exists."""
    config = sys.modules.get(_CONFIG)
    if config is not None:
        config.allow_rnn = True  # type: ignore[attr-defined]
    else:
        sys.meta_path.insert(0, _WhenImported())
