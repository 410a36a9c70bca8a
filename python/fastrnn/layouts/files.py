"""Weights in files: .npz, .safetensors, and .h5 as Keras writes it or with plain names."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .direction import Array

SUFFIXES = (".npz", ".safetensors", ".h5", ".hdf5")

_KERAS_VARIABLE = re.compile(
    r"(?P<layer>.*?)(?P<direction>(forward|backward)_layer/)?cell/vars/(?P<index>[012])"
)
_KERAS_NAMES = ("kernel", "recurrent_kernel", "bias")


def load(path: Path, prefix: str = "") -> dict[str, Array]:
    """The arrays of a file whose names begin with the prefix, by the rest of their names."""
    _check_suffix(path)
    try:
        arrays = _read(path)
    except OSError as error:
        if error.errno is None:  # h5py's own
            raise ValueError(f"{path}: {error}") from error
        raise
    chosen = {name[len(prefix) :]: a for name, a in arrays.items() if name.startswith(prefix)}
    if not chosen:
        raise ValueError(f"{path}: no array's name begins with {prefix!r}; it has {_some(arrays)}")
    return _keras_names(path, chosen) if path.suffix in (".h5", ".hdf5") else chosen


def save(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays by their names; the suffix says how."""
    _check_suffix(path)
    if path.suffix == ".npz":
        named: dict[str, Any] = dict(arrays)
        np.savez(path, **named)
    elif path.suffix == ".safetensors":
        from safetensors.numpy import save_file

        save_file({name: np.array(array, order="C") for name, array in arrays.items()}, path)
    else:
        with _h5py().File(path, "w") as file:
            for name, array in arrays.items():
                file[name] = array


def _check_suffix(path: Path) -> None:
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: the name must end in one of {', '.join(SUFFIXES)}")


def _read(path: Path) -> dict[str, Array]:
    if path.suffix == ".npz":
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        except (zipfile.BadZipFile, EOFError, AttributeError, TypeError) as error:
            raise ValueError(f"{path}: not an npz file") from error
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path}: {error}") from error
    h5py = _h5py()
    arrays: dict[str, Array] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = np.asarray(item)

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return arrays


def _h5py() -> Any:
    try:
        import h5py  # type: ignore[import-untyped]
    except ImportError as error:
        raise ValueError("HDF5 files need h5py: pip install h5py") from error
    return h5py


def _keras_names(path: Path, arrays: dict[str, Array]) -> dict[str, Array]:
    """Names of one recurrent layer for the numbers that Keras gives to a layer's variables."""
    found = {name: m for name in arrays if (m := _KERAS_VARIABLE.fullmatch(name))}
    if not found:
        return arrays
    layers = sorted({match["layer"] for match in found.values()})
    if len(layers) > 1:
        raise ValueError(f"{path}: choose one of its layers by its prefix: {', '.join(layers)}")
    return {
        ("reverse." if match["direction"] == "backward_layer/" else "")
        + _KERAS_NAMES[int(match["index"])]: arrays[name]
        for name, match in found.items()
    }


def _some(arrays: Mapping[str, Array]) -> str:
    names = list(arrays)
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
