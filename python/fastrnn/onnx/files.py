"""Models and their constants, read from what nobody has vouched for.

No size that a file states is believed: arrays are as large as the bytes that are there.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

Array = npt.NDArray[Any]
Source = Any  # onnx.ModelProto, its bytes, or the path of a file

_KINDS = "biuf"  # bool, ints, floats; and bfloat16


def read(model: Source) -> tuple[onnx.ModelProto, Path | None]:
    """The model, and the folder in which its external data may lie."""
    if isinstance(model, onnx.ModelProto):
        return model, None
    folder = None
    if isinstance(model, (bytes, bytearray)):
        what, data = "the bytes", bytes(model)
    elif isinstance(model, (str, os.PathLike)):
        path = Path(model)
        what, data, folder = f"{os.fspath(model)!r}", path.read_bytes(), path.parent
    else:
        raise TypeError(
            f"fastrnn.onnx: a model must be an onnx.ModelProto, bytes or a path, got "
            f"{type(model).__name__}"
        )
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except (DecodeError, RuntimeError) as error:
        raise ValueError(f"fastrnn.onnx: {what} are not an ONNX model: {error}") from None
    if not proto.HasField("graph"):
        raise ValueError(f"fastrnn.onnx: {what} are not an ONNX model: there is no graph")
    return proto, folder


def tensors(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    """Those in a node's attributes."""
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors


def array(what: str, tensor: onnx.TensorProto, folder: Path | None = None) -> Array:
    """A constant's array; `what` names it in errors."""
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    except KeyError:
        dtype = np.dtype(object)
    if dtype.kind not in _KINDS and dtype.name != "bfloat16":
        number = tensor.data_type
        known = number in onnx.TensorProto.DataType.values()
        name = onnx.TensorProto.DataType.Name(number) if known else number
        raise ValueError(f"{what}: data type {name} is not supported")
    if min(tensor.dims, default=0) < 0:
        raise ValueError(f"{what}: a shape must not be negative, got {list(tensor.dims)}")
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return _external(what, tensor, dtype, folder)
    try:
        found: Array = onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(
            f"{what}: its data do not fit its shape {list(tensor.dims)}: {error}"
        ) from None
    return found


def _external(
    what: str, tensor: onnx.TensorProto, dtype: np.dtype[Any], folder: Path | None
) -> Array:
    """From a regular file in the model's own folder, or below it."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if folder is None:
        raise ValueError(
            f"{what}: its data are in another file, {location!r}: give the model as a path"
        )
    path = (folder / location).resolve()
    if not location or not path.is_relative_to(folder.resolve()) or not path.is_file():
        raise ValueError(
            f"{what}: external data must be a file in the folder of the model, got {location!r}"
        )
    size = dtype.itemsize * math.prod(tensor.dims)
    try:
        offset, stated = int(entries.get("offset", 0)), int(entries.get("length", size))
    except ValueError:
        offset = stated = -1
    if offset < 0 or stated != size:
        raise ValueError(
            f"{what}: external data at {entries.get('offset', 0)} of {entries.get('length', size)} "
            f"bytes; wanted are {size}, for shape {list(tensor.dims)} of {dtype}"
        )
    if offset + size > path.stat().st_size:
        raise ValueError(
            f"{what}: {size} bytes at {offset} are wanted, {location!r} has {path.stat().st_size}"
        )
    with path.open("rb") as file:
        file.seek(offset)
        found = np.frombuffer(file.read(size), dtype.newbyteorder("<"))
    return found.astype(dtype, copy=False).reshape(tuple(tensor.dims))
