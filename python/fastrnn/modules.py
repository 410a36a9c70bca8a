"""RNN, LSTM and GRU layers for NumPy, with torch's constructor, parameter names and shapes.

A layer here is what torch calls one: num_layers levels in one or two directions over the core's
calls. The equations live in the core; this file owns only the parameters, the stacking, the dropout
between levels, and what a training forward keeps for backward.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as safetensors_bytes

from . import _core, stack
from .atomic import write_atomically
from .dropout import dropout_mask
from .functional import checked_clip

if TYPE_CHECKING:
    from typing import Unpack

Array = npt.NDArray[Any]
State = TypeVar("State", bound=Any)  # h, or (h, c) for the LSTM
Self = TypeVar("Self", bound="Recurrent[Any]")


_KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")  # in the core's order


class Gradients(NamedTuple):
    """What backward returns: each gradient has the shape and dtype of what it belongs to."""

    dx: Array
    dstate: Any  # dh0, or (dh0, dc0) for the LSTM: (L * D, B, H) each
    parameters: dict[str, Array]


class _Cell(NamedTuple):
    """What a kind of layer is made of."""

    gates: int
    states: int  # 1: h, 2: (h, c)
    core_name: Callable[[Any], str]  # of a layer: what the core calls its cell
    core_names: tuple[str, ...]  # all that it may call one of this kind
    options: tuple[str, ...] = ()  # the constructor's arguments that choose among the core's cells


class _Call(NamedTuple):
    """What one training forward keeps for its backward."""

    saved: list[Any]  # the core's, one per level and direction
    masks: list[Array | None]  # one dropout mask per level
    y_shape: tuple[int, ...]
    batch: int


class _CallOfOne(NamedTuple):
    """The same for a sequence without an axis of rows."""

    batch: _Call | stack.Call


class Recurrent(Generic[State]):
    """What RNN, LSTM and GRU share; a subclass names its cell."""

    _cell: ClassVar[_Cell]

    def __init__(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        dtype: npt.DTypeLike = np.float32,
        seed: int | None = None,
        **options: Unpack[stack.LayerOptions],
    ) -> None:
        sizes: tuple[Any, ...]
        if isinstance(hidden_size, (list, tuple)):  # one a level
            sizes, num_layers = tuple(hidden_size), len(hidden_size)
        else:
            sizes = (hidden_size,)
        for name, value in (
            ("input_size", input_size),
            *(("hidden_size", size) for size in sizes),
            ("num_layers", num_layers),
        ):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
                raise TypeError(f"{self._name}: {name} must be an int, got {value!r}")
            if value < 1:
                raise ValueError(f"{self._name}: {name} must be at least 1, got {value}")
        if isinstance(dropout, bool) or not isinstance(dropout, (int, float, np.number)):
            raise TypeError(f"{self._name}: dropout must be a number, got {dropout!r}")
        if not 0.0 <= dropout <= 1.0:
            raise ValueError(f"{self._name}: dropout must be in [0, 1], got {dropout}")
        if dropout > 0.0 and num_layers == 1:
            warnings.warn(
                f"{self._name}: dropout={dropout} has no effect with num_layers=1: "
                "it acts between layers, not after the last",
                stacklevel=2 if type(self).__init__ is Recurrent.__init__ else 3,
            )
        if np.dtype(dtype) not in (np.dtype(np.float32), np.dtype(np.float64)):
            raise TypeError(
                f"{self._name}: dtype must be float32 or float64, got {np.dtype(dtype)}"
            )
        if seed is None:
            seed = int.from_bytes(os.urandom(8), "little")
        elif isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
            raise TypeError(f"{self._name}: seed must be an int or None, got {seed!r}")
        if not 0 <= seed < 2**64:
            raise ValueError(f"{self._name}: seed must be in [0, 2**64), got {seed}")

        self.input_size = int(input_size)
        self.num_layers = int(num_layers)
        hidden = tuple(int(size) for size in sizes) * (1 if len(sizes) > 1 else self.num_layers)
        self.hidden_size: Any = hidden[0] if len(set(hidden)) == 1 else hidden
        self.bias = bool(bias)
        self.batch_first = bool(batch_first)
        self.dropout = float(dropout)
        self.bidirectional = bool(bidirectional)
        self.dtype = np.dtype(dtype)
        self.seed = int(seed)
        self.dropout_calls = 0
        self._call: _Call | stack.Call | _CallOfOne | None = None
        self._options = stack.checked(self._name, options)
        self._kind = self._make_kind(hidden)
        self._kind.check(self._name, self.dtype)
        self._is_plain = self._kind.is_plain
        self._is_single = self.num_layers == 1 and not self.bidirectional
        self._is_reverse = self._kind.reads_backwards(0)
        self._steps = self._is_plain and not self.bidirectional and not self._is_reverse
        self._parameters: dict[str, Array] = {}
        self._packed: list[_core.Weights] = []
        self._initialise()

    # ------------------------------------------------------------------ parameters
    def _make_kind(self, hidden: tuple[int, ...]) -> stack.Kind:
        cell, coupled = self._cell, bool(self._options["coupled"])
        family = cell.core_names[0].split("_")[0]
        core_name = "lstm_coupled" if coupled and family == "lstm" else cell.core_name(self)
        return stack.Kind(
            family,
            core_name,
            cell.core_name(self) if family != "rnn" else "rnn",
            cell.gates - (coupled and family == "lstm"),
            self._options,
            hidden,
            self.input_size,
            self._directions,
            self.bias,
        )

    def _initialise(self) -> None:
        generator = np.random.default_rng(self.seed)
        for name, shape in self._kind.shapes():
            level = int(name.rsplit("_l", 1)[1].split("_")[0])
            self._set(name, self._kind.initial(name, shape, level, generator).astype(self.dtype))

    def _row_parameters(self, level: int, direction: int) -> dict[str, Array]:
        """The parameters of one level and direction, by their names without its number."""
        end = _suffix(level, direction)
        return {
            name[: -len(end)]: value
            for name, value in self._parameters.items()
            if name.endswith(end)
        }

    def _set(self, name: str, value: Array) -> None:
        """The one place where a parameter changes. `value` is ours to keep: checked and not shared.

        A new array each time: a backward that is still to come must see the weights of its forward.
        """
        value.flags.writeable = False
        self._parameters[name] = self.__dict__[name] = value
        self._packed = []

    def _checked(self, name: str, value: npt.ArrayLike) -> Array:
        """A copy of `value` after checks against parameter `name`."""
        array = np.asarray(value)
        expected = self._parameters[name]
        if array.dtype != self.dtype:
            raise TypeError(f"{self._name}: {name} must be {self.dtype}, got {array.dtype}")
        if array.shape != expected.shape:
            raise ValueError(
                f"{self._name}: {name} must have shape {expected.shape}, got {array.shape}"
            )
        return np.array(array, order="C")

    @property
    def parameters(self) -> Mapping[str, Array]:
        """Every parameter by torch's name, in torch's order: read-only arrays."""
        return MappingProxyType(self._parameters)

    def update(self, values: Mapping[str, npt.ArrayLike]) -> None:
        """Set the named parameters (copies). On an error nothing has changed."""
        unknown = [name for name in values if name not in self._parameters]
        if unknown:
            raise ValueError(f"{self._name}.update: no such parameters: {', '.join(unknown)}")
        checked = {name: self._checked(name, value) for name, value in values.items()}
        for name, array in checked.items():
            self._set(name, array)

    def state_dict(self) -> dict[str, Array]:
        """A new dict of the parameters (the arrays are not copied and never change), with torch's
        keys.
        """
        return dict(self._parameters)

    def load_state_dict(self, state_dict: Mapping[str, npt.ArrayLike]) -> None:
        """Set every parameter, from this layer's state_dict or from that of torch's layer of the
        same kind.

        ValueError if a key is missing or unexpected or a shape differs, TypeError if a dtype
        differs; on an error nothing has changed.
        """
        missing = [name for name in self._parameters if name not in state_dict]
        unexpected = [name for name in state_dict if name not in self._parameters]
        if missing or unexpected:
            raise ValueError(
                f"{self._name}.load_state_dict: missing keys: {', '.join(missing) or 'none'}; "
                f"unexpected keys: {', '.join(unexpected) or 'none'}"
            )
        self.update(state_dict)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Array:
            """A parameter."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name[0] == "_":
            object.__setattr__(self, name, value)
        elif name in self.__dict__.get("_parameters", ()):
            self._set(name, self._checked(name, value))
        elif name.startswith(("weight_", "bias_")):
            raise AttributeError(f"{self._name} has no parameter {name}")
        else:
            super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        # a copy has its own parameters, and no forward behind it
        own: dict[str, Any] = {"_parameters": dict(self._parameters), "_packed": [], "_call": None}
        return self.__dict__ | own

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for name, array in self._parameters.items():  # copy and pickle make arrays writeable
            self._set(name, array)

    # ------------------------------------------------------------------ files
    def configuration(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON can hold them."""
        names = (
            "input_size",
            "hidden_size",
            "num_layers",
            "bias",
            "batch_first",
            "dropout",
            "bidirectional",
        )
        configuration = {name: getattr(self, name) for name in (*names, *self._cell.options)}
        configuration |= {"dtype": self.dtype.name, "seed": self.seed}
        options = {n: v for n, v in self._options.items() if v != stack.DEFAULTS[n]}
        return configuration | options

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the parameters and the configuration as safetensors.

        An old file is replaced whole or not at all. Raises OSError.
        """
        description = {
            "layer": self._name,
            **self.configuration(),
            "dropout_calls": self.dropout_calls,
        }
        metadata = {"fastrnn": json.dumps(description)}
        write_atomically(path, safetensors_bytes(self._parameters, metadata))

    @classmethod
    def load(cls: type[Self], path: str | os.PathLike[str]) -> Self:
        """A layer from a file that save wrote.

        ValueError if the file is not one, or holds a layer of another kind; OSError if it cannot be
        read.
        """
        where = f"{cls.__name__}.load: {os.fspath(path)!r}"
        with open(path, "rb"):
            pass  # OSError says more than the SafetensorError that would follow
        try:
            with safe_open(path, framework="numpy") as file:
                description = json.loads((file.metadata() or {})["fastrnn"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            kind = description.pop("layer")
            calls = description.pop("dropout_calls")
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{where} is not a file written by {cls.__name__}.save: {error}"
            ) from error
        if kind != cls.__name__:
            raise ValueError(f"{where} holds a layer of kind {kind}")
        with warnings.catch_warnings():
            # the one about dropout was given when the layer was made
            warnings.simplefilter("ignore")
            layer = cls(**description)
        layer.load_state_dict(tensors)
        layer.dropout_calls = calls
        return layer

    # ------------------------------------------------------------------ computation
    def forward(
        self,
        x: Array,
        state: State | None = None,
        lengths: npt.ArrayLike | None = None,
        mask: Array | None = None,
        reset: Array | None = None,
        training: bool = False,
        *,
        save: bool | Literal["recompute", "chunks"] = True,
        return_layers: bool = False,
    ) -> Any:
        """The layer over a sequence.

        x        (T, B, I), or (B, T, I) with batch_first; the layer's dtype
        state    where to start: h, or (h, c) for the LSTM, (L * D, B, H) each; zeros if None
        lengths  (B,) ints, 0 to T: row b ends after lengths[b] steps; y beyond is 0
        mask     (T, B) bool ((B, T) with batch_first): False carries the state over the step
        reset    (T, B) bool ((B, T) with batch_first): True sets the state to zero before the step
        training keep what backward needs, and apply dropout
        save     with training: "chunks" or "recompute" keep less (fastrnn.functional)
        return_layers   a third result: the output of every level

        x (T, I) is one sequence; then nothing else has an axis of rows either.

        Returns y (T, B, D * H), or (B, T, D * H) with batch_first, and the state after the last
        step, shaped as `state`. Direction d of level l is row l * D + d of a state. Without
        `training` nothing is kept, and an earlier training forward can still be followed by its
        backward.

        Dropout (inverted: what is kept is scaled by 1 / (1 - dropout)) acts on the output of every
        level but the last. Its masks come from Philox4x32-10 (fastrnn.dropout): whether element (t,
        b, unit) of level l's output is kept depends on nothing but (seed, dropout_calls, l, t, b,
        unit), so a row gets the same mask in a batch of any size. dropout_calls counts this layer's
        training forwards with dropout; save and load keep it.

        Until backward, x and y are referred to and not copied: do not change them in place.

        Raises ValueError and TypeError for a wrong shape or dtype.
        """
        x = np.asarray(x)
        shape = x.shape
        if len(shape) != 3 or shape[2] != self.input_size or x.dtype != self.dtype:
            if len(shape) == 2:
                return self._forward_of_one(
                    x, state, lengths, mask, reset, training, save, return_layers
                )
            symbols = "(B, T, I)" if self.batch_first else "(T, B, I)"
            self._check("forward", "x", x, symbols, (None, None, self.input_size))
        batch = shape[0] if self.batch_first else shape[1]
        if return_layers or save is not True or not self._is_plain:
            rows = self._rows("forward", "state", state, batch)
            levels, ends, call = stack.forward(self, x, rows, lengths, mask, reset, training, save)
            if training:
                self.dropout_calls += self._kind.draws or (self.dropout > 0 and self.num_layers > 1)
                self._call = call
            y, final = levels[-1], self._of_rows(ends)
            return (y, final, levels) if return_layers else (y, final)
        if state is None and self._is_single:  # the loop below, once: a short call is mostly Python
            y, h_n, c_n, kept, *_ = (self._packed or self._weights())[0].forward(
                x, None, None, lengths, mask, reset, self._is_reverse, self.batch_first, training
            )
            if training:
                self._call = _Call([kept], [None], y.shape, batch)
            h_n = h_n[np.newaxis]
            return y, h_n if c_n is None else (h_n, c_n[np.newaxis])
        initial = () if state is None else self._unpack("forward", "state", state, batch)

        directions, weights = self._directions, self._weights()
        saved: list[Any] = []
        masks: list[Array | None] = []
        last: list[Array] = []  # h_n, c_n of each row of a state in turn; c_n is None without a c
        y = x
        h0 = c0 = None
        for layer in range(self.num_layers):
            outputs = []
            for direction in range(directions):
                row = layer * directions + direction
                if initial:
                    h0, c0 = (*(part[row] for part in initial), None)[:2]
                backwards = self._kind.reads_backwards(direction)
                output, h_n, c_n, kept, *_ = weights[row].forward(
                    y, h0, c0, lengths, mask, reset, backwards, self.batch_first, training
                )
                outputs.append(output)
                last += h_n, c_n
                saved.append(kept)
            y = outputs[0] if len(outputs) == 1 else np.concatenate(outputs, axis=-1)
            scale = self._dropout_mask(y.shape, layer) if training and self.dropout else None
            masks.append(scale)
            if scale is not None:
                y = y * scale  # not in place: backward may need the undropped y

        final = self._pack_rows(last)
        if training:
            self.dropout_calls += self.dropout > 0 and self.num_layers > 1
            self._call = _Call(saved, masks, y.shape, batch)
        return y, final

    def truncated(
        self,
        x: Array,
        length: int,
        state: State | None = None,
        lengths: npt.ArrayLike | None = None,
        mask: Array | None = None,
        reset: Array | None = None,
    ) -> Iterator[tuple[slice, Array, State]]:
        """Truncated back-propagation through time: training forwards over pieces of `length` steps.

        Yields the piece's steps, its y and the state after it, from which the next one begins (as a
        number: no gradient goes back). Call backward in between. Raises ValueError for a
        layer that is bidirectional or reverse, which needs the whole sequence.
        """
        self._check_forwards("truncated")
        axis = 1 if self.batch_first and np.ndim(x) == 3 else 0
        for start in range(0, x.shape[axis], length):
            steps = slice(start, min(start + length, x.shape[axis]))
            part = [
                None if a is None else a[:, steps] if axis else a[steps] for a in (x, mask, reset)
            ]
            left = None
            if lengths is not None:
                left = np.clip(np.asarray(lengths) - start, 0, steps.stop - start)
            piece = cast(Array, part[0])
            y, state = self.forward(piece, state, left, part[1], part[2], training=True)
            yield steps, y, cast(State, state)

    def backward(
        self,
        dy: Array | None,
        dstate: State | None = None,
        *,
        dlayers: Sequence[Array | None] | None = None,
        grad_clip: float | None = None,
    ) -> Gradients:
        """Back-propagation through time for the last forward(training=True), once for each.

        dy (shaped as y) and dstate (shaped as the state) are the loss's gradients with respect to
        what forward returned; None is zero. The weights are those of that forward, even if they
        were changed since. dlayers, after a forward with return_layers: gradients of the levels'
        outputs, of which the last is added to dy. grad_clip: as in fastrnn.functional.

        Raises RuntimeError without such a forward, ValueError and TypeError for a wrong shape or
        dtype.
        """
        call, name = self._call, f"{self._name}.backward"
        if call is None:
            raise RuntimeError(f"{name}: no forward(training=True) came before")
        clip = checked_clip(name, grad_clip)
        if not isinstance(call, _Call):
            if isinstance(call, _CallOfOne):
                return self._backward_of_one(call, dy, dstate, dlayers, grad_clip)
            return self._general_backward(dy, dstate, dlayers, clip)
        if dlayers is not None:
            raise ValueError(f"{name}: dlayers need a forward with return_layers")
        saved, masks, y_shape, batch = call
        if dy is not None:
            dy = np.asarray(dy)
            if dy.shape != y_shape or dy.dtype != self.dtype:
                self._check("backward", "dy", dy, "shaped as y", y_shape)
        final = () if dstate is None else self._unpack("backward", "dstate", dstate, batch)
        self._call = None
        if dstate is None and self._is_single:  # the loop below, once, as in forward
            whole = _core.backward(
                name, self._cell.core_names, saved.pop(), dy, None, None, None, clip
            )
            dh0, dc0 = whole[5][np.newaxis], whole[6]
            start = dh0 if dc0 is None else (dh0, dc0[np.newaxis])
            return Gradients(whole[0], start, dict(zip(self._parameters, whole[1:5], strict=False)))

        directions = self._directions
        dweights: list[Array] = []  # of all parameters, backwards
        first: list[Array] = []  # dh0, dc0 of each row of a state in turn, backwards
        dh_n = dc_n = None
        for layer in reversed(range(self.num_layers)):
            scale = masks[layer]
            if scale is not None and dy is not None:
                dy = dy * scale
            dx: Array | None = None
            for direction in reversed(range(directions)):
                row = layer * directions + direction
                dy_here = dy
                if dy is not None and directions == 2:
                    dy_here = np.split(dy, 2, axis=-1)[direction]
                if final:
                    dh_n, dc_n = (*(part[row] for part in final), None)[:2]
                part, dw_ih, dw_hh, db_ih, db_hh, dh0, dc0, *_ = _core.backward(
                    name,
                    self._cell.core_names,
                    saved.pop(),  # its memory is free as soon as its gradients are known
                    dy_here,
                    dh_n,
                    dc_n,
                    None,
                    clip,
                )
                if self.bias:
                    dweights += db_hh, db_ih
                dweights += dw_hh, dw_ih
                first += dc0, dh0
                dx = part if dx is None else np.add(dx, part, out=dx)
            dy = dx

        assert dy is not None
        parameters = dict(zip(self._parameters, reversed(dweights), strict=True))
        return Gradients(dy, self._pack_rows(first[::-1]), parameters)

    def step(self, x: Array, state: State | None = None) -> tuple[Array, State]:
        """One step of a stream: x (B, I) and the state give y (B, H) and the next state.

        Stepping through a sequence gives the same bits as forward over the whole. There is no
        dropout and nothing is kept for backward. Raises ValueError for a layer that is
        bidirectional or reverse, which needs the whole sequence, and ValueError or TypeError for a
        wrong shape or dtype.
        """
        if not self._steps:
            self._check_forwards("step")
            y, after = self.forward(x[:, np.newaxis] if self.batch_first else x[np.newaxis], state)
            return y[:, 0] if self.batch_first else y[0], after
        return _core.stack_step(self._name, self._packed or self._weights(), x, state)

    def _general_backward(
        self,
        dy: Array | None,
        dstate: State | None,
        dlayers: Sequence[Array | None] | None,
        clip: float,
    ) -> Gradients:
        call = self._call
        assert isinstance(call, stack.Call)
        output = call.outputs[-1][0]
        batch = output.shape[0] if self.batch_first else output.shape[1]
        final = self._rows("backward", "dstate", dstate, batch)
        levels: list[Any] = list(dlayers) if dlayers is not None else [None] * self.num_layers
        if len(levels) != self.num_layers:
            raise ValueError(
                f"{self._name}.backward: dlayers must hold {self.num_layers}, got {len(levels)}"
            )
        named = [("dy", -1, dy), *((f"dlayers[{n}]", n, d) for n, d in enumerate(levels))]
        for argument, level, d in named:
            is_last = level in (-1, self.num_layers - 1)
            how, outputs = self._options["merge"], call.outputs[level]
            stack.check_of_output(f"{self._name}.backward", argument, d, outputs, how, is_last)
        levels[-1] = stack.sum_of(levels[-1], dy)
        self._call = None
        dx, first, gradients = stack.backward(self, call, levels, final, clip)
        parameters = {name: gradients[name] for name in self._parameters}
        return Gradients(dx, self._of_rows(first), parameters)

    # ------------------------------------------------------------------ one sequence
    def _forward_of_one(
        self,
        x: Array,
        state: Any,
        lengths: Any,
        mask: Any,
        reset: Any,
        training: bool,
        save: Any,
        return_layers: bool,
    ) -> Any:
        self._check("forward", "x", x, "(T, I)", (None, self.input_size))
        y, final, *levels = self.forward(
            self._as_batch(x),
            _each(state, _state_as_batch),
            None if lengths is None else np.reshape(lengths, (-1,)),
            self._as_batch(mask),
            self._as_batch(reset),
            training,
            save=save,
            return_layers=return_layers,
        )
        if training:
            assert isinstance(self._call, (_Call, stack.Call))
            self._call = _CallOfOne(self._call)
        parts = self._of_batch(y), _each(final, _state_of_batch)
        return (*parts, self._of_batch(levels[0])) if return_layers else parts

    def _backward_of_one(
        self, call: _CallOfOne, dy: Any, dstate: Any, dlayers: Any, grad_clip: float | None
    ) -> Gradients:
        self._call = call.batch
        try:
            gradients = self.backward(
                self._as_batch(dy),
                _each(dstate, _state_as_batch),
                dlayers=self._as_batch(dlayers),
                grad_clip=grad_clip,
            )
        finally:
            if self._call is not None:  # refused: it is still to be called
                self._call = call
        dx, first, parameters = gradients
        return Gradients(self._of_batch(dx), _each(first, _state_of_batch), parameters)

    def _as_batch(self, value: Any) -> Any:
        return _each(value, lambda a: np.expand_dims(a, 0 if self.batch_first else 1))

    def _of_batch(self, value: Any) -> Any:
        return _each(value, lambda a: a[0] if self.batch_first else a[:, 0])

    # ------------------------------------------------------------------ helpers
    def _rows(
        self, method: str, argument: str, state: State | None, batch: int
    ) -> list[tuple[Array | None, Array | None]]:
        """A state as (h, c) of each level and direction, checked."""
        kind, count = self._kind, self.num_layers * self._directions
        if state is None:
            return [(None, None)] * count
        parts: Any = state
        if not kind.has_c:
            parts = (state, [None] * count)
        elif not (isinstance(state, (tuple, list)) and len(state) == 2):
            raise TypeError(
                f"{self._name}.{method}: {argument} must be a pair (h, c), got {_describe(state)}"
            )
        for name, part in zip("hc"[: 1 + kind.has_c], parts, strict=False):
            if len(part) != count:
                raise ValueError(
                    f"{self._name}.{method}: {name} of {argument} must have {count} rows, "
                    f"got {len(part)}"
                )
            for row, array in enumerate(part):
                level = row // self._directions
                units = kind.units(level) if name == "h" else kind.hidden[level]
                where = f"{name}[{row}] of {argument}"
                self._check(method, where, np.asarray(array), "(B, units)", (batch, units))
        return list(zip(*parts, strict=True))

    def _of_rows(self, rows: Sequence[tuple[Array, Array | None]]) -> State:
        """A state of its rows: arrays (L * D, B, units), or lists if the levels differ in size."""
        stacked = len(set(self._kind.hidden)) == 1
        h, c = (list(part) for part in zip(*rows, strict=True))
        made = np.stack(h) if stacked else h
        if not self._kind.has_c:
            return cast(State, made)
        return cast(State, (made, np.stack(c) if stacked else c))

    @property
    def _name(self) -> str:
        return type(self).__name__

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    def _weights(self) -> list[_core.Weights]:
        """The weights of each level and direction, packed for the kernels until a parameter
        changes, and for the backend that FASTRNN_BACKEND names at that time.
        """
        if not self._packed:
            for layer in range(self.num_layers):
                for direction in range(self._directions):
                    suffix = _suffix(layer, direction)
                    w_ih, w_hh, b_ih, b_hh = (
                        self._parameters.get(kind + suffix) for kind in _KINDS
                    )
                    name = self._cell.core_name(self)
                    weights = _core.Weights(self._name, name, w_ih, w_hh, b_ih, b_hh, None)
                    self._packed.append(weights)
        return self._packed

    def _dropout_mask(self, shape: tuple[int, ...], layer: int) -> Array | None:
        if layer == self.num_layers - 1:
            return None
        first, second, units = shape
        steps, batch = (second, first) if self.batch_first else (first, second)
        mask = dropout_mask(
            (steps, batch, units),
            self.dropout,
            self.dtype,
            seed=self.seed,
            call=self.dropout_calls,
            layer=layer,
        )
        return mask.swapaxes(0, 1) if self.batch_first else mask

    def _check_forwards(self, method: str) -> None:
        if self.bidirectional or self._is_reverse:
            which = "bidirectional" if self.bidirectional else "reverse"
            raise ValueError(
                f"{self._name}.{method}: a {which} layer needs the whole sequence: use forward"
            )

    def _check(
        self, method: str, argument: str, array: Array, symbols: str, shape: tuple[int | None, ...]
    ) -> None:
        """Raise unless `array` has the layer's dtype and `shape`; None there is any size."""
        fits = array.ndim == len(shape) and all(
            wanted is None or wanted == size
            for wanted, size in zip(shape, array.shape, strict=True)
        )
        if fits and array.dtype == self.dtype:
            return
        where = f"{self._name}.{method}: {argument}"
        if not fits:
            numbers = ", ".join("any" if size is None else str(size) for size in shape)
            raise ValueError(f"{where} must be {symbols} = ({numbers}), got {array.shape}")
        raise TypeError(f"{where} must be {self.dtype} as the layer is, got {array.dtype}")

    def _unpack(self, method: str, argument: str, state: State, batch: int) -> tuple[Array, ...]:
        """A state as the tuple of its parts, checked."""
        parts = tuple(np.asarray(part) for part in self._parts(method, argument, state))
        shape = (self.num_layers * self._directions, batch, self.hidden_size)
        for name, part in zip("hc", parts, strict=False):
            which = f"{name} of {argument}" if len(parts) == 2 else argument
            self._check(method, which, part, "(L * D, B, H)", shape)
        return parts

    def _parts(self, method: str, argument: str, state: State) -> Sequence[Any]:
        """The parts of a state; not checked but for their number."""
        if self._cell.states == 1:
            return (state,)
        if not (isinstance(state, (tuple, list)) and len(state) == 2):
            raise TypeError(
                f"{self._name}.{method}: {argument} must be a pair (h, c), got {_describe(state)}"
            )
        return state

    def _pack_rows(self, rows: list[Array]) -> State:
        """A state of its rows: h and c of each in turn."""
        h = _stack(rows[::2])
        return cast(State, h if self._cell.states == 1 else (h, _stack(rows[1::2])))

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.configuration().items())
        return f"{self._name}({shown})"


def _each(value: Any, change: Callable[[Array], Array]) -> Any:
    """With every array in it changed."""
    if value is None:
        return None
    if isinstance(value, (tuple, list)):
        return type(value)(_each(part, change) for part in value)
    return change(np.asarray(value))


def _state_as_batch(part: Array) -> Array:
    """(L * D, H) or, of levels of different sizes, (H,)."""
    return np.expand_dims(part, -2) if part.ndim else part


def _state_of_batch(part: Array) -> Array:
    return part[..., 0, :]


def _stack(parts: Sequence[Array]) -> Array:
    return parts[0][np.newaxis] if len(parts) == 1 else np.stack(parts)


def _suffix(layer: int, direction: int) -> str:
    """The end of torch's parameter names."""
    return f"_l{layer}_reverse" if direction else f"_l{layer}"


def _describe(value: object) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"{type(value).__name__} {tuple(shape)}"


class RNN(Recurrent[Array]):
    """h[t] = tanh(W_ih x[t] + b_ih + W_hh h[t-1] + b_hh), or relu for tanh with
    nonlinearity="relu".

    J. L. Elman, "Finding structure in time", Cognitive Science 14 (1990). Arguments, parameter
    names, shapes and the initialisation U(-1/sqrt(H), 1/sqrt(H)) are those of torch.nn.RNN; dtype
    (float32 or float64) and seed (an int below 2**64, for the initialisation and for dropout; None
    draws one) are fastrnn's own.

    Raises ValueError and TypeError for arguments out of range or of the wrong type.
    """

    _cell = _Cell(
        gates=1,
        states=1,
        core_name=lambda layer: f"rnn_{layer.nonlinearity}",
        core_names=("rnn_tanh", "rnn_relu"),
        options=("nonlinearity",),
    )

    def __init__(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int = 1,
        nonlinearity: Literal["tanh", "relu"] = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        dtype: npt.DTypeLike = np.float32,
        seed: int | None = None,
        **options: Unpack[stack.LayerOptions],
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(
                f"{self._name}: nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}"
            )
        self.nonlinearity = nonlinearity
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            dtype=dtype,
            seed=seed,
            **options,
        )


class LSTM(Recurrent["tuple[Array, Array]"]):
    """The LSTM with a forget gate; gates in torch's order i f g o; the state is the pair (h, c).

    S. Hochreiter, J. Schmidhuber, "Long short-term memory", Neural Computation 9 (1997); F. A.
    Gers, J. Schmidhuber, F. Cummins, "Learning to forget", Neural Computation 12 (2000). Arguments,
    parameter names, shapes and the initialisation U(-1/sqrt(H), 1/sqrt(H)) are those of
    torch.nn.LSTM; dtype (float32 or float64) and seed (an int below 2**64, for the initialisation
    and for dropout; None draws one) are fastrnn's own.

    Raises ValueError and TypeError for arguments out of range or of the wrong type.
    """

    _cell = _Cell(
        gates=4,
        states=2,
        core_name=lambda _: "lstm",
        core_names=("lstm",),
    )


class GRU(Recurrent[Array]):
    """The gated recurrent unit; gates in torch's order r z n.

    K. Cho et al., "Learning phrase representations using RNN encoder-decoder", EMNLP 2014. With
    reset_after (the default; torch's and cuDNN's unit) the reset gate acts on W_hn h + b_hn; with
    reset_after=False it acts on h before that product, as in the paper. Arguments, parameter names,
    shapes and the initialisation U(-1/sqrt(H), 1/sqrt(H)) are those of torch.nn.GRU; reset_after,
    dtype (float32 or float64) and seed (an int below 2**64, for the initialisation and for dropout;
    None draws one) are fastrnn's own.

    Raises ValueError and TypeError for arguments out of range or of the wrong type.
    """

    _cell = _Cell(
        gates=3,
        states=1,
        core_name=lambda layer: "gru" if layer.reset_after else "gru_reset_before",
        core_names=("gru", "gru_reset_before"),
        options=("reset_after",),
    )

    def __init__(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        reset_after: bool = True,
        dtype: npt.DTypeLike = np.float32,
        seed: int | None = None,
        **options: Unpack[stack.LayerOptions],
    ) -> None:
        self.reset_after = bool(reset_after)
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            dtype=dtype,
            seed=seed,
            **options,
        )
