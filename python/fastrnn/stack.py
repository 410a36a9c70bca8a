"""What the layers of modules.py do beyond torch's: the options of `LayerOptions`, forward and back.

A plain layer never comes here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast

import numpy as np
import numpy.typing as npt

from . import functional
from .dropout import dropout_mask
from .reference.features import ActivationSpec, Features, LayerNorm, Settings, settings
from .reference.philox import layer_key

if TYPE_CHECKING:
    from .modules import Recurrent

Array = npt.NDArray[Any]


class LayerOptions(TypedDict, total=False):
    """Keyword arguments of the layers, beside torch's.

    * ``proj_size``: units of y and h, by a projection of the cell's output
    * ``peephole``, ``coupled``, ``cell_clip``: LSTM
    * ``activations``, ``clip``: as in :class:`fastrnn.Features`
    * ``layer_norm``: None, "output" or "state" (:class:`fastrnn.LayerNorm`; the GRU and the RNN
      have one way, and either name is it)
    * ``zoneout``, ``recurrent_dropout``, ``weight_dropout``: probabilities; they act in training
      (zoneout by its expectation otherwise)
    * ``merge`` of two directions: "concat", "sum", "mul", "average", or None: y is a pair, and the
      next level gets both
    * ``initialiser``: "torch"; "keras", Glorot's uniform for weight_ih, orthogonal weight_hh, no
      biases; or "orthogonal", torch's with each gate's weight_hh orthogonal
    * ``forget_bias``: LSTM, what the forget gate's bias is at the beginning
    * ``reverse``: from the last step to the first, instead of both ways
    """

    proj_size: int
    peephole: bool
    coupled: bool
    activations: Sequence[ActivationSpec] | None
    clip: float | None
    cell_clip: float | None
    layer_norm: Literal["output", "state"] | None
    zoneout: float | tuple[float, float]
    recurrent_dropout: float
    weight_dropout: float
    merge: Literal["concat", "sum", "mul", "average"] | None
    initialiser: Literal["torch", "keras", "orthogonal"]
    forget_bias: float | None
    reverse: bool


DEFAULTS: dict[str, Any] = {
    "proj_size": 0,
    "peephole": False,
    "coupled": False,
    "activations": None,
    "clip": None,
    "cell_clip": None,
    "layer_norm": None,
    "zoneout": 0.0,
    "recurrent_dropout": 0.0,
    "weight_dropout": 0.0,
    "merge": "concat",
    "initialiser": "torch",
    "forget_bias": None,
    "reverse": False,
}
# those that change what is computed, beside where it starts
_OF_CELL = tuple(DEFAULTS)[:10]
_PASSED = (
    *("coupled", "activations", "clip", "cell_clip"),
    *("zoneout", "recurrent_dropout", "weight_dropout"),
)
_NORMS = ("gain_ih", "gain_hh", "gain_c", "bias_c")


def checked(name: str, given: LayerOptions) -> dict[str, Any]:
    """All options, with their defaults."""
    values: dict[str, Any] = dict(given)
    for option in values:
        if option not in DEFAULTS:
            raise TypeError(f"{name}: got an unexpected keyword argument {option!r}")
    options = DEFAULTS | values
    for option, allowed in (
        ("merge", ("concat", "sum", "mul", "average", None)),
        ("initialiser", ("torch", "keras", "orthogonal")),
        ("layer_norm", (None, "output", "state")),
    ):
        if options[option] not in allowed:
            raise ValueError(f"{name}: {option} must be one of {allowed}, got {options[option]!r}")
    proj_size = options["proj_size"]
    if isinstance(proj_size, bool) or not isinstance(proj_size, (int, np.integer)):
        raise TypeError(f"{name}: proj_size must be an int, got {proj_size!r}")
    if proj_size < 0:
        raise ValueError(f"{name}: proj_size must be at least 0, got {proj_size}")
    forget_bias = options["forget_bias"]
    if forget_bias is not None and not isinstance(forget_bias, (int, float, np.number)):
        raise TypeError(f"{name}: forget_bias must be a number, got {forget_bias!r}")
    if not isinstance(options["reverse"], (bool, np.bool_)):
        raise TypeError(f"{name}: reverse must be a bool, got {options['reverse']!r}")
    options["reverse"] = bool(options["reverse"])
    if isinstance(options["zoneout"], list):  # as JSON has a pair
        options["zoneout"] = tuple(options["zoneout"])
    return options


@dataclass(frozen=True)
class Kind:
    """The cell of a layer with its options: names, and sizes a level."""

    family: str  # lstm, gru or rnn
    core_name: str
    for_settings: str  # as settings() calls it
    gates: int
    options: dict[str, Any]
    hidden: tuple[int, ...]  # of each level
    input_size: int
    directions: int
    bias: bool

    @property
    def has_c(self) -> bool:
        return self.family == "lstm" or (self.family == "gru" and bool(self.options["proj_size"]))

    @property
    def is_plain(self) -> bool:
        """The driver of the plain layer is enough."""
        usual = all(self.options[name] == DEFAULTS[name] for name in (*_OF_CELL, "merge"))
        return usual and len(set(self.hidden)) == 1

    def reads_backwards(self, direction: int) -> bool:
        return direction == 1 or bool(self.options["reverse"])

    def units(self, level: int) -> int:
        """P."""
        return int(self.options["proj_size"]) or self.hidden[level]

    def width(self, level: int) -> int:
        """Of the output of a level, as the next one sees it."""
        both = self.directions == 2 and self.options["merge"] in ("concat", None)
        return self.units(level) * (2 if both else 1)

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        for level, H in enumerate(self.hidden):
            I = self.width(level - 1) if level else self.input_size
            rows, P = self.gates * H, self.units(level)
            for direction in range(self.directions):
                for name, shape in self._shapes_of_row(rows, I, H, P):
                    yield name + suffix(level, direction), shape

    def _shapes_of_row(
        self, rows: int, I: int, H: int, P: int
    ) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield "weight_ih", (rows, I)
        yield "weight_hh", (rows, P)
        if self.bias:
            yield "bias_ih", (rows,)
            yield "bias_hh", (rows,)
        if self.options["proj_size"]:
            yield "weight_hr", (P, H)
        if self.options["peephole"]:
            yield "peephole", (self.gates - 1, H)
        if self.options["layer_norm"] is not None:
            yield "gain_ih", (rows,)
            yield "gain_hh", (rows,)
            if self.family == "lstm":
                yield "gain_c", (H,)
                yield "bias_c", (H,)

    def initial(
        self, name: str, shape: tuple[int, ...], level: int, draw: np.random.Generator
    ) -> Array:
        """The value of a parameter at the beginning."""
        kind = name.rsplit("_l", 1)[0]
        H, how = self.hidden[level], self.options["initialiser"]
        bound = 1.0 / math.sqrt(H)
        value: Array = draw.uniform(-bound, bound, shape)
        if kind.startswith("gain"):
            value = np.ones(shape)
        elif kind == "bias_c":
            value = np.zeros(shape)
        elif kind == "weight_hh" and how == "keras":
            value = _orthogonal(value)
        elif kind == "weight_hh" and how == "orthogonal":
            value = np.concatenate([_orthogonal(gate) for gate in np.split(value, self.gates)])
        elif how == "keras":
            glorot = math.sqrt(6.0 / sum(shape))
            value = value * glorot / bound if len(shape) == 2 else np.zeros(shape)
        forget_bias = self.options["forget_bias"]
        if forget_bias is not None:
            if kind == "bias_ih":
                value[H : 2 * H] = forget_bias
            elif kind == "bias_hh":
                value[H : 2 * H] = 0.0
        return value

    def settings_of(
        self, name: str, parameters: dict[str, Array], seed: int, training: bool
    ) -> Settings | None:
        """The options of one level and direction, for the core; `parameters` are that row's."""
        values: dict[str, Any] = {key: self.options[key] for key in _PASSED}
        values |= {
            "w_hr": parameters.get("weight_hr"),
            "peephole": parameters.get("peephole"),
            "seed": seed,
            "training": training,
        }
        if self.options["layer_norm"] is not None:
            gain_ih, gain_hh, gain_c, bias_c = (parameters.get(n) for n in _NORMS)
            values["layer_norm"] = LayerNorm(
                gain_ih, gain_hh, gain_c, bias_c, self.options["layer_norm"]
            )
        result = settings(name, self.for_settings, cast(Features, values))
        return None if result.plain else result

    def check(self, name: str, dtype: npt.DTypeLike) -> Settings | None:
        """The options of a level and direction, with stand-ins for the parameters. Raise for one
        that this kind of layer does not have or that is out of range.
        """
        if self.options["peephole"] and self.family != "lstm":
            raise ValueError(f"{name}: argument 'peephole' must be left out: it has none")
        if self.options["forget_bias"] is not None and (
            self.family != "lstm" or self.options["coupled"] or not self.bias
        ):
            raise ValueError(
                f"{name}: argument 'forget_bias' must be left out: it has no bias of a forget gate"
            )
        if self.options["reverse"] and self.directions == 2:
            raise ValueError(f"{name}: argument 'reverse' must be left out: it is bidirectional")
        row = dict(self._shapes_of_row(self.gates, 1, 1, 1))
        stand_ins = {n: np.zeros(shape, dtype) for n, shape in row.items()}
        return self.settings_of(name, stand_ins, 0, True)

    @property
    def draws(self) -> bool:
        """Whether a training forward takes new masks."""
        names = ("zoneout", "recurrent_dropout", "weight_dropout")
        return any(self.options[name] not in (0.0, (0.0, 0.0)) for name in names)


@dataclass(frozen=True)
class Call:
    """What one training forward keeps for its backward."""

    saved: list[Any]
    masks: list[Array | None]
    outputs: list[list[Array]]  # of each level, by direction


def forward(
    layer: Recurrent[Any],
    x: Array,
    initial: list[tuple[Array | None, Array | None]],
    lengths: Any,
    mask: Any,
    reset: Any,
    training: bool,
    save: Any,
) -> tuple[list[Any], list[tuple[Array, Array | None]], Call]:
    """-> the output of every level, the final state of every row, and the call."""
    kind, name = layer._kind, f"{layer._name}.forward"
    call = Call([], [], [])
    last: list[tuple[Array, Array | None]] = []
    levels: list[Any] = []
    y = x
    for level in range(layer.num_layers):
        outputs = []
        for direction in range(kind.directions):
            parameters = layer._row_parameters(level, direction)
            seed = layer_key(layer.seed, layer.dropout_calls, level, direction)
            h0, c0 = initial[level * kind.directions + direction]
            weights = (parameters.get(n) for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
            output, h_n, c_n, saved, *_ = functional.run_forward(
                name,
                kind.core_name,
                y,
                *weights,
                h0,
                c0,
                lengths,
                mask,
                reset,
                kind.reads_backwards(direction),
                layer.batch_first,
                save if training else False,
                False,
                None,
                kind.settings_of(name, parameters, seed, training),
            )
            outputs.append(output)
            last.append((h_n, c_n))
            call.saved.append(saved)
        call.outputs.append(outputs)
        is_last = level == layer.num_layers - 1
        merged = merge(outputs, kind.options["merge"], is_last)
        levels.append(merged)
        scale = None
        if training and layer.dropout and not is_last:
            shape = merged.shape if not layer.batch_first else merged.swapaxes(0, 1).shape
            scale = dropout_mask(
                shape,
                layer.dropout,
                layer.dtype,
                seed=layer.seed,
                call=layer.dropout_calls,
                layer=level,
            )
            scale = scale.swapaxes(0, 1) if layer.batch_first else scale
        call.masks.append(scale)
        y = merged if scale is None else merged * scale
    return levels, last, call


def backward(
    layer: Recurrent[Any],
    call: Call,
    dlevels: list[Any],
    final: list[tuple[Array | None, Array | None]],
    grad_clip: float,
) -> tuple[Array, list[tuple[Array, Array | None]], dict[str, Array]]:
    """dL/d(output of every level), any or all None -> dx, dL/d(initial state) of every row, and
    the parameters' gradients.
    """
    kind, name = layer._kind, f"{layer._name}.backward"
    gradients: dict[str, Array] = {}
    first: list[tuple[Array, Array | None]] = []
    below: Array | None = None
    for level in reversed(range(layer.num_layers)):
        scale, outputs = call.masks[level], call.outputs[level]
        if below is not None and scale is not None:
            below = below * scale
        is_last = level == layer.num_layers - 1
        of_outputs = unmerge(dlevels[level], outputs, kind.options["merge"], is_last)
        from_above = unmerge(below, outputs, kind.options["merge"], False)
        below = None
        for direction in reversed(range(kind.directions)):
            parts = [d[direction] for d in (of_outputs, from_above) if d is not None]
            dy = parts[0] + parts[1] if len(parts) == 2 else parts[0] if parts else None
            dh, dc = final[level * kind.directions + direction]
            g = functional.run_backward(
                name, [kind.core_name], call.saved.pop(), dy, dh, dc, None, grad_clip, False
            )
            dx, dw_ih, dw_hh, db_ih, db_hh, dh0, dc0, *more = g
            first.append((dh0, dc0))
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr", "peephole")
            values = (dw_ih, dw_hh, db_ih, db_hh, *more[:6])
            for key, value in zip((*names, *_NORMS), values, strict=False):
                if value is not None:
                    gradients[key + suffix(level, direction)] = value
            below = dx if below is None else below + dx
    assert below is not None
    return below, first[::-1], gradients


def merge(outputs: list[Array], how: str | None, is_last: bool) -> Any:
    if len(outputs) == 1:
        return outputs[0]
    a, b = outputs
    if how is None and is_last:
        return a, b
    if how in ("concat", None):
        return np.concatenate(outputs, axis=-1)
    if how == "mul":
        return a * b
    return a + b if how == "sum" else (a + b) / 2


def sum_of(a: Any, b: Any) -> Any:
    """Of two gradients of the same output; None is zero."""
    if a is None or b is None:
        return b if a is None else a
    if isinstance(a, np.ndarray):
        return a + b
    return tuple(one + other for one, other in zip(a, b, strict=True))


def unmerge(d: Any, outputs: list[Array], how: str | None, is_last: bool) -> Any:
    """Backward of `merge`: one gradient a direction; None for None."""
    if d is None or len(outputs) == 1:
        return None if d is None else (d,)
    if how is None and is_last:
        return d
    if how in ("concat", None):
        return np.split(d, 2, axis=-1)
    if how == "mul":
        return d * outputs[1], d * outputs[0]
    return (d, d) if how == "sum" else (d / 2, d / 2)


def check_of_output(
    function: str, argument: str, d: Any, outputs: list[Array], how: str | None, is_last: bool
) -> None:
    """ValueError if d does not fit what `merge` made of the outputs."""
    if d is None:
        return
    *steps, units = outputs[0].shape
    pair = len(outputs) == 2 and how is None and is_last
    wide = len(outputs) == 2 and how in ("concat", None) and not pair
    shape = (*steps, 2 * units if wide else units)
    wanted = f"a pair of arrays of shape {shape}" if pair else f"of shape {shape}"
    parts = d if pair and isinstance(d, (list, tuple)) else [d]
    shapes = [getattr(part, "shape", None) for part in parts]
    if shapes != [shape] * (2 if pair else 1):
        came = ", ".join(f"shape {s}" if s is not None else "no array" for s in shapes)
        raise ValueError(f"{function}: argument {argument!r} must be {wanted}, got {came}")


def suffix(level: int, direction: int) -> str:
    """The end of torch's parameter names."""
    return f"_l{level}_reverse" if direction else f"_l{level}"


def _orthogonal(like: Array) -> Array:
    """Orthonormal columns, or rows if there are fewer of them (Saxe et al., arXiv:1312.6120)."""
    rows, columns = like.shape
    q, r = np.linalg.qr(like if rows >= columns else like.T)
    q = q * np.sign(np.diag(r))
    return q if rows >= columns else q.T
