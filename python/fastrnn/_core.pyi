from collections.abc import Sequence
from typing import Any, Literal

class Saved:
    @property
    def backend(self) -> str: ...
    @property
    def path(self) -> str | None: ...

class Weights:
    def __init__(
        self,
        function: str,
        cell: str,
        w_ih: object,
        w_hh: object,
        b_ih: object,
        b_hh: object,
        backend: str | None,
    ) -> None: ...
    def forward(
        self,
        x: object,
        h0: object,
        c0: object,
        lengths: object,
        mask: object,
        reset: object,
        reverse: bool,
        batch_first: bool,
        save: bool,
    ) -> tuple[Any, Any, Any, Saved | None, None, None]: ...

class ProbeMemory:
    def __init__(self, bytes: int) -> None: ...
    def read(self, rounds: int, backend: str | None) -> int: ...

def forward(
    function: str,
    cell: str,
    x: object,
    w_ih: object,
    w_hh: object,
    b_ih: object,
    b_hh: object,
    h0: object,
    c0: object,
    lengths: object,
    mask: object,
    reset: object,
    reverse: bool,
    batch_first: bool,
    save: bool,
    return_cell_sequence: bool,
    backend: str | None,
    settings: object = None,
    threads: int = 0,
) -> tuple[Any, Any, Any, Saved | None, Any, Any]: ...
def backward(
    function: str,
    cells: Sequence[str],
    saved: object,
    dy: object,
    dh_n: object,
    dc_n: object,
    dgates: object = None,
    grad_clip: float = 0.0,
    return_step_norms: bool = False,
    dc: object = None,
    wanted: Sequence[bool] | None = None,
) -> tuple[Any, ...]: ...
def jvp(
    function: str, cells: Sequence[str], saved: object, tangents: dict[str, Any]
) -> tuple[Any, Any, Any, Any]: ...
def backward_jvp(
    function: str,
    cells: Sequence[str],
    saved: object,
    tangents: dict[str, Any],
    dy: object,
    dh_n: object,
    dc_n: object,
    dgates: object,
    grad_clip: float,
) -> tuple[tuple[Any, ...], tuple[Any, Any, Any, Any]]: ...
def step(
    function: str,
    cell: str,
    x: object,
    h: object,
    c: object,
    w_ih: object,
    w_hh: object,
    b_ih: object,
    b_hh: object,
    backend: str | None,
    settings: object = None,
) -> tuple[Any, Any]: ...
class WeightCache:
    def __init__(self) -> None: ...
    def clear(self) -> None: ...
    @property
    def filled(self) -> bool: ...

class Plan:
    def __init__(
        self, cell: str, batch_first: bool, bidirectional: bool, settings: object
    ) -> None: ...
    def kept(self, units: int, projected: bool) -> int: ...
    def forward(
        self,
        threads: int,
        inputs: tuple[object, ...],
        keys: tuple[int, ...] | None,
        save: bool,
        filled: bool,
        cache: WeightCache | None,
        batch_sizes: object = None,
    ) -> tuple[Any, Any, Any, Any, Any]: ...
    def backward(
        self,
        threads: int,
        inputs: tuple[object, ...],
        keys: tuple[int, ...] | None,
        y: object,
        c: object,
        reserve: object,
        dy: object,
        dh_n: object,
        dc_n: object,
        wanted: Sequence[bool],
        batch_sizes: object = None,
    ) -> list[Any]: ...
    def stack(
        self,
        threads: int,
        x: object,
        weights: Sequence[object],
        h0: object,
        c0: object,
        caches: Sequence[WeightCache],
    ) -> Any: ...
    def step(
        self,
        threads: int,
        parameters: dict[str, Any],
        x: object,
        h: object,
        c: object,
        cache: WeightCache,
    ) -> Any: ...

def stack_step(
    name: str, layers: list[Weights], x: object, state: object
) -> tuple[Any, Any]: ...
def probe_multiply_add(rounds: int, is_double: bool, backend: str | None) -> int: ...
def backends(compiled: bool) -> list[str]: ...
def num_threads() -> int: ...
def set_num_threads(n: int) -> None: ...
def float32_precision() -> Literal["strict", "tf32"]: ...
def set_float32_precision(precision: str) -> None: ...
def cuda_path(
    cell: str, dtype: str, T: int, B: int, H: int, reset: bool, device: int
) -> tuple[str, str]: ...
def set_least_work(multiply_adds: int) -> None: ...
def xla_handlers() -> dict[str, dict[str, Any]]: ...
def cells() -> list[tuple[str, int]]: ...
