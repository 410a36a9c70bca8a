"""Cases with the features of the family: each alone, and random combinations, all seeded.

case = alone("lstm", "peephole", np.float64)       case = combination(17, np.float32)
result, gradients = case.run(fastrnn, backend="avx2")

and how their results are compared with the reference's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
from tolerances import assert_close

from fastrnn import FamilyGradients
from fastrnn.reference import LayerNorm

CELLS = ("lstm", "lstm_coupled", "gru", "gru_reset_before", "rnn")
GATES = {"lstm": 4, "lstm_coupled": 3, "gru": 3, "gru_reset_before": 3, "rnn": 1}
ACTIVATIONS = (
    "sigmoid",
    "tanh",
    "relu",
    ("affine", 0.8, 0.1),
    ("leakyrelu", 0.3),
    ("thresholdedrelu", 0.2),
    ("scaledtanh", 0.9, 0.7),
    ("hardsigmoid", 0.3, 0.4),
    ("elu", 0.8),
    "softsign",
    "softplus",
)

# name -> the cells that have it
FEATURES: dict[str, tuple[str, ...]] = {
    "projection": ("lstm", "lstm_coupled", "gru", "rnn"),
    "peephole": ("lstm", "lstm_coupled"),
    "activations": CELLS,
    "clip": CELLS,
    "cell_clip": ("lstm", "lstm_coupled"),
    "layer_norm_output": CELLS,
    "layer_norm_state": ("lstm", "lstm_coupled"),
    "zoneout": CELLS,
    "zoneout_evaluation": CELLS,
    "recurrent_dropout": CELLS,
    "weight_dropout": CELLS,
    "gates": CELLS,
    "cell_sequence": ("lstm", "lstm_coupled"),
    "grad_clip": CELLS,
    "step_norms": CELLS,
}
EVERY_ONE = [(cell, feature) for feature, cells in FEATURES.items() for cell in cells]


@dataclass(frozen=True)
class Case:
    """Arguments of a forward and of a backward call."""

    family: str
    inputs: dict[str, Any]
    cotangents: dict[str, Any]
    options: dict[str, Any]  # of backward
    name: str

    def run(self, namespace: ModuleType, **options: Any) -> tuple[dict[str, Any], Any]:
        """Results by name, and the gradients."""
        results = getattr(namespace, f"{self.family}_forward")(**self.inputs, **options)
        y, state, saved, *more = results
        state = state if isinstance(state, tuple) else (state,)
        named = {"y": y, **dict(zip(("h_n", "c_n"), state, strict=False))}
        asked = {"return_cell_sequence": "c", "return_gates": "gates"}
        named |= zip([n for o, n in asked.items() if self.inputs.get(o)], more, strict=True)
        if saved is None:
            return named, None
        backward = getattr(namespace, f"{self.family}_backward")
        return named, backward(saved, **self.cotangents, **self.options)

    def results(self, namespace: ModuleType, **options: Any) -> Results:
        """All results of forward and backward, by name."""
        named, gradients = self.run(namespace, **options)
        return {**named, **gradients._asdict()}

    def loss(self, namespace: ModuleType) -> float:
        """What the cotangents are the gradient of."""
        named, _ = replace(self, inputs={**self.inputs, "save": False}).run(namespace)
        return sum(
            float(np.sum(self.cotangents[d] * named[name]))
            for name, d in ((name, f"d{name}") for name in ("y", "h_n", "c_n", "c", "gates"))
            if d in self.cotangents
        )


def alone(cell: str, feature: str, dtype: npt.DTypeLike, seed: int = 0, **sizes: int) -> Case:
    sizes = {"T": 5, "B": 4, "I": 3, "H": 7, **sizes}
    return _case(cell, {feature}, dtype, np.random.default_rng([seed, 1]), sizes, {})


def combination(seed: int, dtype: npt.DTypeLike, many_rows: bool = False) -> Case:
    """Sizes, cell, features and options drawn at random; `many_rows`: as a matrix unit takes."""
    draw = np.random.default_rng([seed, 3 if many_rows else 2])
    cell = CELLS[draw.integers(len(CELLS))]
    share = draw.choice([0.15, 0.4])
    features = {f for f, cells in FEATURES.items() if cell in cells and draw.random() < share}
    if {"layer_norm_output", "layer_norm_state"} <= features:
        features.discard("layer_norm_output")
    sizes = {
        "T": int(draw.integers(1, 8)),
        "B": int(draw.integers(1, 10)),
        "I": int(draw.integers(3, 20)),
        "H": int(draw.choice([4, 7, 8, 9, 15, 16, 17, 24, 33])),
    }
    if many_rows:
        sizes |= {"B": int(draw.integers(8, 40)), "H": int(draw.choice([5, 16, 31, 33, 50, 70]))}
        sizes["T"] = int(draw.integers(96, 140)) // sizes["B"] + 1
    names = ("lengths", "mask", "reset", "reverse", "batch_first", "no_bias", "state")
    options = {name: bool(draw.random() < 0.4) for name in names}
    return _case(cell, features, dtype, draw, sizes, options)


Results = dict[str, Any]  # arrays, or None, by name


def assert_agrees(
    got: Results,
    expected: Results,
    exact: Callable[..., Results],
    given: tuple[Any, ...],
    kind: str,
    name: str,
) -> None:
    """`got`, of `given` in their dtype, is what `exact(*given)`, in float64, has said: to the
    table's tolerance, or where that is badly conditioned to what rounding what is given changes.

    Results beyond the range of the dtype are not compared. `kind` "": by the name of the result.
    """
    assert got.keys() == expected.keys()
    moved: list[Results] = []
    for key, value in expected.items():
        if value is None or got[key] is None:
            assert value is got[key], f"{key} of {name}"
            continue
        dtype = got[key].dtype
        if not np.abs(value).max(initial=0.0) < np.finfo(dtype).max:
            return  # nor is anything that was computed from it
        label, what = f"{key} of {name}", kind or ("gradient" if key in _GRADIENTS else "forward")
        try:
            assert_close(got[key], value, dtype, what, name=label)
        except AssertionError:
            draws = (np.random.default_rng(n) for n in range(16))
            moved = moved or [exact(*rounded(given, dtype, draw)) for draw in draws]
            change = max(float(np.abs(m[key] - value).max()) for m in moved)
            assert_close(got[key], value, dtype, what, name=label, sensitivity=change)


_GRADIENTS = FamilyGradients._fields


def rounded(value: Any, dtype: npt.DTypeLike, draw: np.random.Generator) -> Any:
    """Every number in it moved by half a unit in the last place of the dtype, in float64."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind != "f":
            return value
        half = np.finfo(dtype).eps / 2
        return value.astype(np.float64) * (1 + draw.choice([-half, half], value.shape))
    if isinstance(value, dict):
        return {name: rounded(part, dtype, draw) for name, part in value.items()}
    if isinstance(value, LayerNorm):
        return LayerNorm(*(rounded(part, dtype, draw) for part in value))
    if isinstance(value, Case):
        inputs, cotangents = (
            rounded(group, dtype, draw) for group in (value.inputs, value.cotangents)
        )
        for name in {"clip", "cell_clip", "activations"} & inputs.keys():
            inputs[name] = _rounded_constants(inputs[name], dtype, draw)
        return replace(value, inputs=inputs, cotangents=cotangents)
    return tuple(rounded(part, dtype, draw) for part in value) if type(value) is tuple else value


def _rounded_constants(value: Any, dtype: npt.DTypeLike, draw: np.random.Generator) -> Any:
    """At a jump of a function, a gate at its bound may be a tie of such numbers alone."""
    if isinstance(value, float):
        return float(rounded(np.asarray(value), dtype, draw))
    if isinstance(value, (list, tuple)):
        return type(value)(_rounded_constants(part, dtype, draw) for part in value)
    return value


def _case(
    cell: str,
    features: set[str],
    dtype: npt.DTypeLike,
    draw: np.random.Generator,
    sizes: dict[str, int],
    options: dict[str, bool],
) -> Case:
    T, B, I, H = (sizes[s] for s in "TBIH")
    G, family = GATES[cell], cell.split("_")[0]
    P = int(draw.integers(1, H + 1)) if "projection" in features else H
    has_c = family == "lstm" or ("projection" in features and family == "gru")

    def normal(*shape: int) -> Any:
        return draw.standard_normal(shape).astype(dtype)

    def uniform(bound: float, *shape: int) -> Any:
        return draw.uniform(-bound, bound, shape).astype(dtype)

    inputs: dict[str, Any] = {
        "x": normal(T, B, I),
        "w_ih": uniform(1 / np.sqrt(I), G * H, I),
        "w_hh": uniform(1 / np.sqrt(P), G * H, P),
        "b_ih": uniform(0.5, G * H),
        "b_hh": uniform(0.5, G * H),
        "h0": normal(B, P),
    }
    cotangents = {"dy": normal(T, B, P), "dh_n": normal(B, P)}
    if has_c:
        inputs["c0"], cotangents["dc_n"] = normal(B, H), normal(B, H)
    if not options.get("state", True):
        inputs.pop("h0")
        inputs.pop("c0", None)
    if options.get("no_bias"):
        del inputs["b_ih"], inputs["b_hh"]
    if options.get("lengths"):
        inputs["lengths"] = draw.integers(0, T, B, endpoint=True)
    if options.get("mask"):
        inputs["mask"] = draw.random((T, B)) < 0.7
    if options.get("reset"):
        inputs["reset"] = draw.random((T, B)) < 0.2
    if options.get("reverse"):
        inputs["reverse"] = True
    if family == "gru":
        inputs["reset_after"] = cell == "gru"
    if cell == "lstm_coupled":
        inputs["coupled"] = True
    backward: dict[str, Any] = {}
    masks = {"zoneout", "recurrent_dropout", "weight_dropout"} & features
    if masks:
        inputs["seed"] = int(draw.integers(2**63))
    if "projection" in features:
        inputs["w_hr"] = uniform(1 / np.sqrt(H), P, H)
    if "peephole" in features:
        inputs["peephole"] = uniform(0.7, G - 1, H)
    if "activations" in features:
        count = G + (family == "lstm")
        inputs["activations"] = [
            ACTIVATIONS[n] for n in draw.integers(len(ACTIVATIONS), size=count)
        ]
    if "clip" in features:
        inputs["clip"] = 0.6
    if "cell_clip" in features:
        inputs["cell_clip"] = 0.4
    for variant in ("output", "state"):
        if f"layer_norm_{variant}" in features:
            gains = (1 + uniform(0.4, G * H), 1 + uniform(0.4, G * H))
            of_c = (1 + uniform(0.4, H), uniform(0.4, H)) if family == "lstm" else (None, None)
            inputs["layer_norm"] = LayerNorm(*gains, *of_c, variant, 0.05)
    if "zoneout" in features or "zoneout_evaluation" in features:
        inputs["zoneout"] = (0.3, 0.2) if has_c else 0.3
        inputs["training"] = "zoneout" in features
    for name in ("recurrent_dropout", "weight_dropout"):
        if name in features:
            inputs[name] = 0.3
    if "gates" in features:
        inputs["return_gates"] = True
        cotangents["dgates"] = normal(T, B, G, H)
    if "cell_sequence" in features:
        inputs["return_cell_sequence"] = True
        cotangents["dc"] = normal(T, B, H)
    if "grad_clip" in features:
        backward["grad_clip"] = 0.2
    if "step_norms" in features:
        backward["return_step_norms"] = True
    if options.get("batch_first"):
        inputs["batch_first"] = True
        for group in (inputs, cotangents):
            for name in {"x", "mask", "reset", "dy", "dc", "dgates"} & group.keys():
                group[name] = np.ascontiguousarray(group[name].swapaxes(0, 1))
    on = [name for name, value in options.items() if value]
    name = f"{cell} T{T}B{B}I{I}H{H}P{P} {' '.join(sorted(features) + on)}"
    return Case(family, inputs, cotangents, backward, name)
