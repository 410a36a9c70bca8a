"""fastrnn.jax on a CUDA device: run by tests/test_cuda_arrays.py with a module whose CUDA backend
runs on the host. XLA calls the handlers of the platform CUDA with arrays of the host, and what they
ask of it about stream, device and memory is answered here.
"""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
from fake_cuda import STREAM

from fastrnn import _core

jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402

jax.config.update("jax_cpu_enable_async_dispatch", False)  # Python is called from inside

DEVICE = 0
_address = ctypes.pythonapi.PyCapsule_GetPointer
_address.restype, _address.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
Pointer, Size = ctypes.c_void_p, ctypes.c_size_t
Function = ctypes.CFUNCTYPE(Pointer, Pointer)


class Request(ctypes.Structure):
    """Of a stream or a device, its last field the answer."""

    _fields_ = (("size", Size), ("next", Pointer), ("context", Pointer), ("answer", Pointer))


class Allocation(ctypes.Structure):
    _fields_ = (*Request._fields_[:3], ("bytes", Size), ("alignment", Size), ("data", Pointer))


class Release(ctypes.Structure):
    _fields_ = (*Request._fields_[:3], ("bytes", Size), ("data", Pointer))


class Api(ctypes.Structure):
    _fields_ = (
        ("size", Size),
        *((f"a{i}", Pointer) for i in range(5)),
        ("new_error", Pointer),
        *((f"b{i}", Pointer) for i in range(3)),
        ("stream", Pointer),
        *((f"c{i}", Pointer) for i in range(4)),
        ("allocate", Pointer),
        ("release", Pointer),
        *((f"d{i}", Pointer) for i in range(6)),
        ("device", Pointer),
    )


class Frame(ctypes.Structure):
    _fields_ = (("size", Size), ("extensions", Pointer), ("api", ctypes.POINTER(Api)))


class Runtime:
    """What stands in for XLA's on a GPU."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.held: dict[int, Any] = {}
        self.most = 0
        self.refuses = False
        self._kept: list[Any] = []

    @staticmethod
    def stream(request: int) -> None:
        Request.from_address(request).answer = STREAM

    @staticmethod
    def device(request: int) -> None:
        ctypes.c_int32.from_address(request + Request.answer.offset).value = DEVICE

    def allocate(self, request: int) -> int | None:
        wanted = Allocation.from_address(request)
        if self.refuses:
            return self.error("out of memory on the device")
        memory = (ctypes.c_char * (wanted.bytes + wanted.alignment))()
        at = -(-ctypes.addressof(memory) // wanted.alignment) * wanted.alignment
        wanted.data = at
        self.held[at] = memory
        self.most = max(self.most, wanted.bytes)
        return None

    def release(self, request: int) -> None:
        del self.held[Release.from_address(request).data]

    def error(self, text: str) -> int:
        message = ctypes.create_string_buffer(text.encode())
        self._kept.append(message)
        made = (Size * 4)(32, 0, ctypes.addressof(message), 8)
        error: int = Function(self.real.new_error)(ctypes.addressof(made))
        return error

    def handler(self, name: str, true: Any) -> Any:
        call = Function(_address(true, None))

        @Function
        def shim(frame: int) -> int | None:
            of = Frame.from_address(frame)
            if of.extensions:  # a question about the handler
                return call(frame)  # type: ignore[no-any-return]
            self.real = of.api.contents
            api = Api.from_buffer_copy(self.real)
            for request in ("stream", "device", "allocate", "release"):
                answer = Function(getattr(self, request))
                self._kept.append(answer)
                setattr(api, request, ctypes.cast(answer, Pointer))
            self.calls.append(name)
            of.api = ctypes.pointer(api)
            try:
                return call(frame)  # type: ignore[no-any-return]
            finally:
                of.api = ctypes.pointer(self.real)

        self._kept.append(shim)
        return jax.ffi.pycapsule(shim)


runtime = Runtime()
_handlers = _core.xla_handlers()["CUDA"]
_core.xla_handlers = lambda: {
    "cpu": {name: runtime.handler(name, handler) for name, handler in _handlers.items()}
}
import fastrnn.jax as fj  # noqa: E402

T, B, I, H = 6, 3, 4, 9
CELLS = {
    "lstm": (fj.lstm, {}),
    "gru": (fj.gru, {}),
    "gru_reset_before": (fj.gru, {"reset_after": False}),
    "rnn": (fj.rnn, {}),
}


@pytest.fixture(autouse=True)
def fresh() -> None:
    runtime.calls.clear()
    runtime.most = 0


@pytest.mark.parametrize(
    ("cell", "marked"),
    [("lstm", False), ("lstm", True), ("gru", True), ("gru_reset_before", True), ("rnn", False)],
)
def test_values_and_gradients_equal_those_of_lax_scan(cell: str, marked: bool) -> None:
    function, options = CELLS[cell]
    keys = jax.random.split(jax.random.key(1), 3)
    params = fj.init(keys[0], cell.split("_")[0], I, H, bidirectional=marked)
    x = jax.random.normal(keys[1], (T, B, I))
    state = jax.random.normal(keys[2], (1 + marked, B, H))
    state = (state, state / 2) if cell == "lstm" else state
    marks = {}
    if marked:
        marks = {
            "lengths": jnp.array([6, 0, 4]),
            "mask": jax.random.bernoulli(keys[0], 0.7, (T, B)),
            "reset": jax.random.bernoulli(keys[1], 0.2, (T, B)),
        }

    def of(backend: Any) -> Any:
        def loss(*arguments: Any) -> Any:
            results = function(*arguments, backend=backend, **options, **marks)
            return sum(jnp.sum(r**2) for r in jax.tree.leaves(results)), results

        return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(params, x, state)

    ours, theirs = of(None), of("scan")
    assert runtime.calls == ["fastrnn_forward", "fastrnn_backward"]
    assert runtime.most > 0
    assert not runtime.held
    for a, e in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert jnp.abs(a - e).max() < 1e-5 * max(1, float(jnp.abs(e).max()))


def test_an_error_of_xla_is_the_calls() -> None:
    params = fj.init(jax.random.key(0), "gru", I, H)
    runtime.refuses = True
    try:
        with pytest.raises(Exception, match="out of memory on the device"):
            fj.gru(params, jnp.ones((T, B, I)))[0].block_until_ready()
    finally:
        runtime.refuses = False
    assert not runtime.held
    fj.gru(params, jnp.ones((T, B, I)))[0].block_until_ready()


def test_forward_mode_is_refused_by_name() -> None:
    params = fj.init(jax.random.key(0), "gru", I, H)
    x = jnp.ones((T, B, I))
    with pytest.raises(Exception, match="backend 'cuda' has no forward mode"):
        jax.block_until_ready(jax.jvp(lambda x: fj.gru(params, x)[0], (x,), (x,)))
