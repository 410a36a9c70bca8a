"""Arrays of the host that pass for arrays on a CUDA device, for a build whose CUDA backend runs on
the host (tests/cpp/cuda_emulation): everything between a caller and the kernels is then as on a
GPU. As a plugin of pytest it makes every torch tensor such an array.
"""

from __future__ import annotations

import ctypes
import os
from types import SimpleNamespace
from typing import Any

import numpy as np

CUDA, STREAM = 2, 0x1230
_BFLOAT = 4  # DLPack's code
_OF_VERSIONED = 32  # bytes before the DLTensor of a DLManagedTensorVersioned
_DEVICE, _DTYPE = 8, 20  # offsets in a DLTensor

_api = ctypes.pythonapi
_api.PyCapsule_GetPointer.restype = ctypes.c_void_p
_api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_api.PyCapsule_New.restype = ctypes.py_object
_api.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


class Array:
    """NumPy's memory, said to lie on a CUDA device. `bfloat16`: of 16-bit integers."""

    def __init__(self, data: Any, *, device: int = 0, bfloat16: bool = False, cupy: bool = True):
        self.data = np.asarray(data)
        self.device, self.bfloat16, self.cupy = device, bfloat16, cupy
        self.streams: list[Any] = []  # that consumers asked for

    @property
    def dtype(self) -> Any:
        return "bfloat16" if self.bfloat16 else self.data.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    def reshape(self, *shape: int) -> Array:
        return Array(
            self.data.reshape(shape), device=self.device, bfloat16=self.bfloat16, cupy=self.cupy
        )

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, self.device

    def __dlpack__(self, *, stream: Any = None, max_version: Any = None) -> Any:
        self.streams.append(stream)
        capsule = self.data.__dlpack__(max_version=max_version)
        tensor = _api.PyCapsule_GetPointer(capsule, b"dltensor_versioned") + _OF_VERSIONED
        ctypes.c_int32.from_address(tensor + _DEVICE).value = CUDA
        ctypes.c_int32.from_address(tensor + _DEVICE + 4).value = self.device
        if self.bfloat16:
            ctypes.c_uint8.from_address(tensor + _DTYPE).value = _BFLOAT
        return capsule

    def __array_namespace__(self, **_: Any) -> Any:
        def empty(shape: tuple[int, ...], dtype: Any) -> Array:
            bfloat16 = dtype == "bfloat16"
            data = np.empty(shape, np.uint16 if bfloat16 else dtype)
            return Array(data, device=self.device, bfloat16=bfloat16, cupy=self.cupy)

        names = {"empty": empty, "float32": np.dtype("float32"), "uint8": np.dtype("uint8")}
        names["ascontiguousarray"] = lambda a: Array(
            np.ascontiguousarray(a.data), device=a.device, bfloat16=a.bfloat16, cupy=a.cupy
        )
        if self.cupy:  # which tells its stream
            names["cuda"] = SimpleNamespace(get_current_stream=lambda: SimpleNamespace(ptr=STREAM))
        return SimpleNamespace(**names)


class _Exchange(ctypes.Structure):
    """DLPack's exchange API."""

    _fields_ = (
        ("version", ctypes.c_uint32 * 2),
        ("previous", ctypes.c_void_p),
        ("allocator", ctypes.c_void_p),
        ("managed_from_object", ctypes.c_void_p),
        ("to_object", ctypes.c_void_p),
        ("view", ctypes.c_void_p),
        ("current_stream", ctypes.c_void_p),
    )


_View = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_void_p)
_Stream = ctypes.PYFUNCTYPE(
    ctypes.c_int, ctypes.c_int32, ctypes.c_int32, ctypes.POINTER(ctypes.c_void_p)
)
_kept: list[Any] = []


def pretend_tensors_lie_on_a_device() -> None:
    """From now on, until the process ends. Before the first call of fastrnn with a tensor."""
    import torch

    name = b"dlpack_exchange_api"
    pointer = _api.PyCapsule_GetPointer(torch.Tensor.__dlpack_c_exchange_api__, name)
    true = _Exchange.from_address(pointer)
    true_view = _View(true.view)

    @_View
    def view(tensor: Any, out: int) -> int:
        status = true_view(tensor, out)
        ctypes.c_int32.from_address(out + _DEVICE).value = CUDA
        return status

    @_Stream
    def current_stream(device_type: int, device: int, out: Any) -> int:
        out[0] = STREAM
        return 0

    fake = _Exchange.from_buffer_copy(true)
    fake.view = ctypes.cast(view, ctypes.c_void_p)
    fake.current_stream = ctypes.cast(current_stream, ctypes.c_void_p)
    capsule = _api.PyCapsule_New(ctypes.addressof(fake), name, None)
    _kept.extend((view, current_stream, fake, capsule, true_view))
    torch.Tensor.__dlpack_c_exchange_api__ = capsule


def pretend_tensors_say_so() -> None:
    """They then tell Python that they are on a CUDA device, and are not to be had as arrays."""
    import torch

    def numpy(tensor: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    torch.Tensor.is_cpu = property(lambda _: False)
    torch.Tensor.is_cuda = property(lambda _: True)
    torch.Tensor.numpy = numpy


def pytest_configure() -> None:
    pretend_tensors_lie_on_a_device()
    if "FAKE_CUDA_TENSORS" in os.environ:
        pretend_tensors_say_so()
