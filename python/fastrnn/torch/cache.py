"""The core reads weights in an order of its own. A module keeps them so from call to call."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch

from fastrnn._core import WeightCache

__all__ = ["Cached", "WeightCache"]


class Cached(torch.nn.Module):
    """A module that keeps packed weights, a `WeightCache` for each layer.

    They are never stale: each call compares the weights' bytes with those that were packed. Of a
    layer with more than 512 KiB of them it compares where they lie, torch's count of changes and a
    sample. Copies and pickles of the module go without.
    """

    _caches: tuple[WeightCache, ...] = ()
    # what a call needs of the module beside its weights, by all that may change after construction
    _kept: Mapping[object, Any] = MappingProxyType({})

    def _keep(self, variant: object, value: Any) -> Any:
        self.__dict__["_kept"] = {**self._kept, variant: value}
        return value

    def _layer_caches(self, layers: int) -> tuple[WeightCache, ...]:
        caches = self._caches
        if len(caches) != layers:
            caches = tuple(WeightCache() for _ in range(layers))
            self.__dict__["_caches"] = caches
        return caches

    def flatten_parameters(self) -> None:
        """Forget packed weights; nothing else is to be flattened.

        Needed only where some weights, not all, of a layer with more than 512 KiB of them were
        changed in a way that torch does not count: through ``.data``, NumPy or another process.
        """
        for cache in self._caches:
            cache.clear()

    def __getstate__(self) -> dict[str, Any]:
        inherited = getattr(super(), "__getstate__", None)  # object has one since Python 3.11
        state = dict(inherited() if inherited else self.__dict__)
        state.pop("_caches", None)
        state.pop("_kept", None)
        return state
