"""Back-propagation through time in little memory: save="recompute" and save="chunks".

Forward keeps the state where chunks of steps begin, and backward runs forward again on a chunk
before it goes back through it (T. Chen et al., "Training deep nets with sublinear memory cost",
arXiv:1604.06174): everything that a step needs is there for one chunk at a time.

    recompute   a chunk has RECOMPUTE_ROWS rows: what is recomputed at a time stays the same
    chunks      a chunk has sqrt(T) steps: what is kept and what is recomputed grow alike
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from . import _core
from .reference.features import Settings

Array = Any

RECOMPUTE_ROWS = 2048  # steps times batch rows: gates of some MiB, and short beside a long sequence
MODES = ("recompute", "chunks")


@dataclass(frozen=True)
class Call:
    """The arguments of a forward call, NumPy's."""

    function: str
    cell: str
    x: Array
    weights: tuple[Array, Array, Array, Array]
    lengths: Array | None
    mask: Array | None
    reset: Array | None
    reverse: bool
    batch_first: bool
    backend: str | None
    settings: Settings | None
    like: Array  # the caller's x: results are of its kind
    threads: int = 0  # 0: as many as fastrnn.set_num_threads says

    @property
    def steps(self) -> int:
        return int(self.x.shape[1 if self.batch_first else 0])

    def part(self, array: Array | None, steps: slice) -> Array | None:
        """The steps of an array (T, B, ...), or (B, T, ...) with batch_first."""
        if array is None:
            return None
        return array[:, steps] if self.batch_first else array[steps]

    def forward(
        self, steps: slice, h: Array | None, c: Array | None, save: bool, sequence: bool
    ) -> tuple[Any, ...]:
        """These steps from the state (h, c) -> (y, h_n, c_n, saved, c sequence, gates)."""
        lengths = self.lengths
        if lengths is not None:
            lengths = np.clip(lengths.astype(np.int64) - steps.start, 0, steps.stop - steps.start)
        settings = self.settings
        if settings is not None:
            settings = replace(settings, first_step=steps.start)
        return _core.forward(
            self.function,
            self.cell,
            self.part(self.x, steps),
            *self.weights,
            h,
            c,
            lengths,
            self.part(self.mask, steps),
            self.part(self.reset, steps),
            self.reverse,
            self.batch_first,
            save,
            sequence,
            self.backend,
            settings,
            self.threads,
        )

    def chunk_length(self, mode: str) -> int:
        if mode == "recompute":
            batch = self.x.shape[0 if self.batch_first else 1] or 1
            return max(1, RECOMPUTE_ROWS // batch)
        return max(1, math.isqrt(max(self.steps - 1, 0)) + 1)

    def chunks(self, length: int) -> Iterator[slice]:
        """In the order of forward."""
        starts = range(0, self.steps, length)
        for start in reversed(starts) if self.reverse else starts:
            yield slice(start, min(start + length, self.steps))


@dataclass(frozen=True)
class Saved:
    """What backward needs: the call, and the state before each chunk, in the order of forward."""

    call: Call
    length: int
    states: list[tuple[Array | None, Array | None]]

    @property
    def backend(self) -> str:
        """Name of the backend that ran."""
        return self.call.backend or _core.backends(compiled=False)[0]

    @property
    def nbytes(self) -> int:
        """Bytes held beyond x, y, the weights and the initial state."""
        return sum(part.nbytes for state in self.states[1:] for part in state if part is not None)


class _Kept:
    """Arrays of all steps, from those of chunks."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.arrays: dict[str, Array] = {}

    def add(self, name: str, steps: slice, part: Array | None) -> None:
        if part is None:
            return
        if name not in self.arrays:
            axis = 1 if self.call.batch_first else 0
            shape = (*part.shape[:axis], self.call.steps, *part.shape[axis + 1 :])
            self.arrays[name] = np.empty(shape, part.dtype)
        self.call.part(self.arrays[name], steps)[...] = part  # type: ignore[index]


def forward(
    call: Call, h0: Array | None, c0: Array | None, mode: str, return_cell_sequence: bool
) -> tuple[Any, ...]:
    """As _core.forward: (y, h_n, c_n, saved, c or None, gates or None)."""
    length = call.chunk_length(mode)
    kept = _Kept(call)
    states = []
    h, c = h0, c0
    for steps in call.chunks(length) if call.steps else [slice(0, 0)]:
        states.append((h, c))
        y, h, c, _, sequence, gates = call.forward(steps, h, c, False, return_cell_sequence)
        for name, part in (("y", y), ("c", sequence), ("gates", gates)):
            kept.add(name, steps, part)
    saved = Saved(call, length, states)
    arrays = kept.arrays
    results = (arrays["y"], h, c, saved, arrays.get("c"), arrays.get("gates"))
    return tuple(r if r is saved else to_kind_of(call.like, r) for r in results)


def backward(
    function: str,
    saved: Saved,
    dy: Array | None,
    dh_n: Array | None,
    dc_n: Array | None,
    dgates: Array | None,
    grad_clip: float,
    return_step_norms: bool,
    dc_of_steps: Array | None = None,
    wanted: Sequence[bool] = (True,) * 13,
) -> tuple[Any, ...]:
    """As _core.backward."""
    call = saved.call
    dy, dh, dc, dgates, dc_of_steps = (to_numpy(a) for a in (dy, dh_n, dc_n, dgates, dc_of_steps))
    of_chunk = (*wanted[:5], True, True, *wanted[7:])  # dh and dc flow on to the chunk before
    dx: Array | None = np.empty(call.x.shape, call.x.dtype) if wanted[0] else None
    norms = np.empty(call.x.shape[:2], call.x.dtype) if return_step_norms else None
    total: list[Array | None] | None = None
    chunks = list(call.chunks(saved.length)) or [slice(0, 0)]
    for steps, (h, c) in zip(reversed(chunks), reversed(saved.states), strict=True):
        part = call.forward(steps, h, c, True, False)[3]
        g = _core.backward(
            function,
            [call.cell],
            part,
            call.part(dy, steps),
            dh,
            dc,
            call.part(dgates, steps),
            grad_clip,
            return_step_norms,
            call.part(dc_of_steps, steps),
            of_chunk,
        )
        if dx is not None:
            call.part(dx, steps)[...] = g[0]  # type: ignore[index]
        dh, dc = g[5], g[6]
        if norms is not None:
            call.part(norms, steps)[...] = g[13]  # type: ignore[index]
        total = list(g) if total is None else _added(total, g)
    assert total is not None
    total[0] = dx
    total[5], total[6] = (
        d if want else None for d, want in zip((dh, dc), wanted[5:], strict=False)
    )
    if norms is not None:
        total[13] = norms
    return tuple(to_kind_of(call.like, a) for a in total)


def jvp(function: str, saved: Saved, tangents: Mapping[str, Array]) -> tuple[Any, ...]:
    """As _core.jvp."""
    results, _ = _jvp(function, saved, _checked_tangents(function, saved, tangents))
    return tuple(to_kind_of(saved.call.like, r) for r in results)


def backward_jvp(
    function: str,
    saved: Saved,
    tangents: Mapping[str, Array],
    dy: Array | None,
    dh_n: Array | None,
    dc_n: Array | None,
    dgates: Array | None,
    grad_clip: float,
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """As _core.backward_jvp."""
    call, t = saved.call, _checked_tangents(function, saved, tangents)
    of_forward = {name: a for name, a in t.items() if name not in ("dy", "dgates", "dh_n", "dc_n")}
    results, starts = _jvp(function, saved, of_forward)
    dy, dh, dc, dgates = (to_numpy(a) for a in (dy, dh_n, dc_n, dgates))
    tdh, tdc = t.get("dh_n"), t.get("dc_n")
    dx: Array = np.empty(call.x.shape, call.x.dtype)
    total: list[Array | None] | None = None
    chunks = list(call.chunks(saved.length)) or [slice(0, 0)]
    for steps, state, start in zip(
        reversed(chunks), reversed(saved.states), reversed(starts), strict=True
    ):
        part = call.forward(steps, *state, True, False)[3]
        of_part = {**_steps_of(call, t, steps), **start, "dh_n": tdh, "dc_n": tdc}
        given = call.part(dy, steps), dh, dc, call.part(dgates, steps), grad_clip
        tg, _ = _core.backward_jvp(function, [call.cell], part, _without_none(of_part), *given)
        g = _core.backward(function, [call.cell], part, *given)
        call.part(dx, steps)[...] = tg[0]  # type: ignore[index]
        dh, dc, tdh, tdc = g[5], g[6], tg[5], tg[6]
        total = list(tg) if total is None else _added(total, tg)
    assert total is not None
    total[0], total[5], total[6] = dx, tdh, tdc
    return tuple(to_kind_of(call.like, a) for a in total), tuple(
        to_kind_of(call.like, r) for r in results
    )


def _jvp(
    function: str, saved: Saved, tangents: dict[str, Array]
) -> tuple[tuple[Array | None, ...], list[dict[str, Array]]]:
    """The tangents of y, h_n, c_n, gates, and those of the state before each chunk."""
    call, kept, starts = saved.call, _Kept(saved.call), list[dict[str, Array]]()
    state: dict[str, Array] = {n: a for n, a in tangents.items() if n in ("h0", "c0")}
    ty = th = tc = tgates = None
    chunks = list(call.chunks(saved.length)) or [slice(0, 0)]
    for steps, (h, c) in zip(chunks, saved.states, strict=True):
        starts.append(state)
        part = call.forward(steps, h, c, True, False)[3]
        of_part = {**_steps_of(call, tangents, steps), **state}
        ty, th, tc, tgates = _core.jvp(function, [call.cell], part, of_part)
        kept.add("y", steps, ty)
        kept.add("gates", steps, tgates)
        state = _without_none({"h0": th, "c0": tc})
    return (kept.arrays["y"], th, tc, kept.arrays.get("gates")), starts


def _checked_tangents(
    function: str, saved: Saved, tangents: Mapping[str, Array]
) -> dict[str, Array]:
    """NumPy's; those that are cut to the chunks have all steps."""
    arrays = _without_none({name: to_numpy(a) for name, a in tangents.items()})
    steps = saved.call.x.shape[:2]
    for name in ("x", "dy", "dgates"):
        if name in arrays and arrays[name].shape[:2] != steps:
            raise ValueError(
                f"{function}: argument 'tangents[{name}]' must begin with the axes {steps} of x, "
                f"got shape {arrays[name].shape}"
            )
    return arrays


def _steps_of(call: Call, tangents: dict[str, Array], steps: slice) -> dict[str, Array]:
    cut = ("x", "dy", "dgates")
    return {n: call.part(a, steps) if n in cut else a for n, a in tangents.items()}


def _without_none(arrays: Mapping[str, Array | None]) -> dict[str, Array]:
    return {name: a for name, a in arrays.items() if a is not None}


def _added(total: list[Array | None], g: Sequence[Array | None]) -> list[Array | None]:
    """The gradients of weights, biases and options, of one chunk more."""
    for n in (1, 2, 3, 4, *range(7, min(len(g), 13))):
        if g[n] is not None:
            total[n] += g[n]
    return total


def checked_lengths(function: str, lengths: Any, steps: int) -> Array | None:
    """They are cut to the chunks, so that the core no longer sees one that is out of range."""
    if lengths is None:
        return None
    array = np.array(lengths) if not hasattr(lengths, "__dlpack__") else np.array(to_numpy(lengths))
    if array.dtype.kind not in "iu":
        raise TypeError(
            f"{function}: argument 'lengths' must be of an integer dtype, got {array.dtype}"
        )
    for b in np.flatnonzero((array < 0) | (array > steps)):
        raise ValueError(
            f"{function}: argument 'lengths' must be between 0 and T = {steps}, "
            f"got lengths[{b}] = {array.flat[b]}"
        )
    return array


def to_numpy(array: Array | None) -> Array | None:
    return array if array is None or isinstance(array, np.ndarray) else np.from_dlpack(array)


def to_kind_of(like: Array, array: Array | None) -> Array | None:
    """An array of the framework that `like` belongs to."""
    if array is None or isinstance(like, np.ndarray):
        return array
    if hasattr(like, "__array_namespace__"):
        return like.__array_namespace__().from_dlpack(array)
    import importlib

    return importlib.import_module(type(like).__module__.split(".")[0]).from_dlpack(array)
