"""The options that every forward and step function takes beside the plain layer's, and their checks
that need no array.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict

from .activations import FUNCTIONS, Activation

Array = Any  # NumPy's, or for the compiled functions one that speaks DLPack
ActivationSpec = str | tuple[str] | tuple[str, float] | tuple[str, float, float]


class LayerNorm(NamedTuple):
    """Layer normalisation inside the cell (Ba, Kiros & Hinton, arXiv:1607.06450, supplement).

    gx = gain_ih LN(W_ih x) + b_ih and gh = gain_hh LN(W_hh h) + b_hh, each product over its own
    G*H outputs (those of the reset-before GRU's two recurrent products apart). The LSTM also
    normalises c, in one of the two usual ways:

    * ``variant="output"``: h = o tanh(gain_c LN(c) + bias_c); c itself stays (the paper)
    * ``variant="state"``: c = gain_c LN(f c' + i g) + bias_c (the LayerNormLSTMCell of PyTorch's
      benchmark custom_lstms.py)
    """

    gain_ih: Array  # (G*H,)
    gain_hh: Array  # (G*H,)
    gain_c: Array | None = None  # (H,), LSTM
    bias_c: Array | None = None  # (H,), LSTM
    variant: str = "output"
    eps: float = 1e-5


class Features(TypedDict, total=False):
    """Keyword arguments of every forward and step function.

    * ``w_hr`` (P, H): projection h = W_hr m of the cell's output m; h0, y, w_hh then have P units
      instead of H. The GRU (``reset_after=True``) keeps m as a second state c (B, H).
    * ``peephole``: LSTM, (3, H), weights from c to i, f, o; with ``coupled`` (2, H), to i, o
    * ``coupled``: LSTM, f = 1 - i; three gates i g o, so that w_ih is (3H, I)
    * ``activations`` of each gate, and for the LSTM last of all the output's: names of ONNX's
      activations, or (name, alpha) or (name, alpha, beta)
    * ``clip``: bound of every gate's input before its activation (ONNX)
    * ``cell_clip``: LSTM, bound of c
    * ``layer_norm``: a :class:`LayerNorm`
    * ``zoneout``: probability that a unit keeps its old value: of h, or a pair, of h and of c
    * ``recurrent_dropout``: probability that a unit of h is dropped where w_hh multiplies it, for
      the whole sequence
    * ``weight_dropout``: DropConnect, probability that a weight of w_hh is dropped, for the whole
      call
    * ``training=False``: no dropout, and zoneout takes its expectation
    * ``seed``: the key of the masks (reference/philox.py)
    * ``return_gates``: a last result, the gates' values (T, B, G, H), 0 where no step is taken
    """

    w_hr: Array | None
    peephole: Array | None
    coupled: bool
    activations: Sequence[ActivationSpec] | None
    clip: float | None
    cell_clip: float | None
    layer_norm: LayerNorm | None
    zoneout: float | tuple[float, float]
    recurrent_dropout: float
    weight_dropout: float
    training: bool
    seed: int
    return_gates: bool


@dataclass(frozen=True)
class Settings:
    """Features, checked; what was not given is off."""

    w_hr: Array | None = None
    peephole: Array | None = None
    coupled: bool = False
    activations: tuple[Activation, ...] | None = None
    clip: float = math.inf
    cell_clip: float = math.inf
    layer_norm: LayerNorm | None = None
    zoneout: tuple[float, float] = (0.0, 0.0)
    recurrent_dropout: float = 0.0
    weight_dropout: float = 0.0
    training: bool = True
    seed: int = 0
    return_gates: bool = False
    first_step: int = 0  # t of step 0, where a call is a part of another

    @property
    def plain(self) -> bool:
        """Nothing is on."""
        if self is _PLAIN:
            return True
        arrays = self.w_hr, self.peephole, self.layer_norm
        off = Settings(training=self.training, seed=self.seed)
        return all(array is None for array in arrays) and self == off


_PLAIN = Settings()


def settings(function: str, cell: str, given: Features, activations: int | None = None) -> Settings:
    """The settings of one call; `cell` is "lstm", "gru", "gru_reset_before", "rnn", or another one
    that has so many `activations`.

    ValueError or TypeError for what does not fit the cell or is out of range.
    """

    if not given:
        return _PLAIN

    def fail(name: str, wanted: str, error: type[Exception] = ValueError) -> None:
        raise error(
            f"{function}: argument {name!r} must be {wanted}, got {_short(values.get(name))}"
        )

    values: dict[str, Any] = dict(given)
    for name in values:
        if name not in Features.__annotations__:
            raise TypeError(f"{function}: got an unexpected keyword argument {name!r}")
    values = {name: value for name, value in values.items() if value is not None}
    is_lstm, coupled = cell == "lstm", bool(values.get("coupled", False))

    for name in ("peephole", "coupled", "cell_clip"):
        if values.get(name, False) is not False and not is_lstm:
            fail(name, f"left out: a {cell.split('_')[0].upper()} has none")
    if "w_hr" in values and cell == "gru_reset_before":
        fail("w_hr", "left out with reset_after=False: r and h would differ in size")
    for name in ("recurrent_dropout", "weight_dropout"):
        if name in values:
            values[name] = _probability(function, name, values[name])
    if "zoneout" in values:
        pair = values["zoneout"]
        has_c = is_lstm or "w_hr" in values
        if not isinstance(pair, (tuple, list)):
            pair = (pair, pair if has_c else 0.0)
        if len(pair) != 2 or (pair[1] and not has_c):
            fail("zoneout", "a number or a pair" if has_c else "a number: there is no c")
        values["zoneout"] = tuple(_probability(function, "zoneout", p) for p in pair)
    for name in ("clip", "cell_clip"):
        if name in values:
            try:
                values[name] = float(values[name])
            except (TypeError, ValueError):
                fail(name, "a number", TypeError)
            if not values[name] > 0.0:
                fail(name, "above 0")
    if "seed" in values:
        seed = values["seed"]
        if isinstance(seed, bool) or not hasattr(seed, "__index__"):
            fail("seed", "an int", TypeError)
        values["seed"] = seed.__index__()
        if not 0 <= values["seed"] < 2**64:
            fail("seed", "in [0, 2**64)")
    if "layer_norm" in values:
        norm = values["layer_norm"]
        if not isinstance(norm, LayerNorm):
            fail("layer_norm", "a fastrnn.LayerNorm", TypeError)
        if norm.variant not in ("output", "state"):
            fail("layer_norm", "of variant 'output' or 'state'")
        if not isinstance(norm.eps, (int, float)) or not norm.eps > 0.0:
            fail("layer_norm", "with a number eps > 0")
        if is_lstm == (norm.gain_c is None) or is_lstm == (norm.bias_c is None):
            fail("layer_norm", "with gain_c and bias_c for the LSTM, and for it alone")
    if "activations" in values:
        count = activations or {"rnn": 1, "lstm": 4 if coupled else 5}.get(cell, 3)
        chosen = values["activations"]
        if not isinstance(chosen, (list, tuple)) or len(chosen) != count:
            fail("activations", f"a sequence of {count}")
        values["activations"] = tuple(_activation(function, a) for a in chosen)
    for name in ("coupled", "training", "return_gates"):
        if name in values:
            values[name] = bool(values[name])
    return Settings(**values)


def _probability(function: str, name: str, p: Any) -> float:
    try:
        value = float(p)
    except (TypeError, ValueError):
        value = math.nan
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{function}: argument {name!r} must be in [0, 1], got {_short(p)}")
    return value


def _activation(function: str, given: ActivationSpec) -> Activation:
    name, *numbers = given if isinstance(given, (list, tuple)) and given else (given,)
    key = str(name).lower().replace("_", "")
    if key not in FUNCTIONS:
        raise ValueError(
            f"{function}: argument 'activations' must hold names of {', '.join(FUNCTIONS)}; "
            f"got {name!r}"
        )
    if len(numbers) > 2 or not all(isinstance(n, (int, float)) for n in numbers):
        raise ValueError(
            f"{function}: argument 'activations' must hold a name, or a name and one or two "
            f"numbers, got {given!r}"
        )
    default = FUNCTIONS[key]
    alpha, beta = (*map(float, numbers), *(default.alpha, default.beta)[len(numbers) :])
    return Activation(key, alpha, beta)


def _short(value: object) -> str:
    shape = getattr(value, "shape", None)
    return repr(value) if shape is None else f"an array of shape {tuple(shape)}"
