"""What an option costs beside the plain layer and beside a loop over torch ops: training.

    taskset -c 1 python benchmarks/family.py [--cell lstm] [--case 32,100,256,256,1]
                                             [--options peephole ..] [--seconds 2] [--no-loop]

Forward and backward on one thread, in float32. The loop is what a user of torch writes: each
operation by itself, a step at a time, autograd's backward; its dropout masks are drawn beforehand
and cost it nothing. Results are compared before they are timed. `cost` is the time by that of the
plain layer, `work` the same of the multiplications alone; `loop` is the loop's time by ours,
`limit` what it would be if the products ran at this core's peak and all else took no time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

import fastrnn
from fastrnn.bench.cases import Case, choose
from fastrnn.bench.floor import measure
from fastrnn.bench.problem import LARGEST_DISAGREEMENT, disagreement
from fastrnn.bench.timing import interleaved
from fastrnn.reference import philox

GATES = {"lstm": 4, "gru": 3, "rnn": 1}
OPTIONS = {
    "lstm": (
        "plain",
        "peephole",
        "coupled",
        "projection",
        "zoneout",
        "recurrent dropout",
        "weight dropout",
        "layer norm",
        "layer norm of c",
        "clip",
        "cell clip",
        "activations",
    ),
    "gru": (
        "plain",
        "reset before",
        "projection",
        "zoneout",
        "recurrent dropout",
        "weight dropout",
        "layer norm",
        "clip",
        "activations",
    ),
    "rnn": (
        "plain",
        "projection",
        "zoneout",
        "recurrent dropout",
        "weight dropout",
        "layer norm",
        "clip",
        "activations",
    ),
}
SEED = 1


def arguments(cell: str, case: Case, option: str) -> dict[str, Any]:
    """Of the forward function."""
    rng = np.random.default_rng(0)
    T, B, I, H = case.steps, case.batch, case.input_size, case.hidden_size
    GH = (3 if option == "coupled" else GATES[cell]) * H
    P = max(1, H // 2) if option == "projection" else H

    def weights(*shape: int) -> Any:
        return rng.uniform(-1, 1, shape).astype(np.float32) / np.float32(np.sqrt(H))

    call = {
        "x": rng.standard_normal((T, B, I)).astype(np.float32),
        "w_ih": weights(GH, I),
        "w_hh": weights(GH, P),
        "b_ih": weights(GH),
        "b_hh": weights(GH),
    }
    if cell == "gru":
        call["reset_after"] = option != "reset before"
    match option:
        case "peephole":
            call["peephole"] = weights(3, H)
        case "coupled":
            call["coupled"] = True
        case "projection":
            call["w_hr"] = weights(P, H)
        case "zoneout":
            call |= {"zoneout": (0.1, 0.1) if cell == "lstm" else 0.1, "seed": SEED}
        case "recurrent dropout":
            call |= {"recurrent_dropout": 0.25, "seed": SEED}
        case "weight dropout":
            call |= {"weight_dropout": 0.25, "seed": SEED}
        case "layer norm" | "layer norm of c":
            gains = [0.25 + weights(n) for n in (GH, GH, H)]  # larger ones are chaotic
            of_c = (gains[2], weights(H)) if cell == "lstm" else (None, None)
            variant = "state" if option == "layer norm of c" else "output"
            call["layer_norm"] = fastrnn.LayerNorm(*gains[:2], *of_c, variant)
        case "clip":
            call["clip"] = 1.0
        case "cell clip":
            call["cell_clip"] = 1.0
        case "activations":
            sigmoids = ["hardsigmoid"] * {"lstm": 2, "gru": 2, "rnn": 0}[cell]
            last = ["hardsigmoid", "softsign"] if cell == "lstm" else []
            call["activations"] = [*sigmoids, "softsign", *last]
    return call


def multiplications(call: dict[str, Any]) -> int:
    """Of a row's step."""
    return sum(call[name].size for name in ("w_ih", "w_hh", "w_hr") if name in call)


class Loop:
    """The same call as a loop over torch ops; `run` gives y and the gradients."""

    def __init__(self, cell: str, call: dict[str, Any], dy: Any) -> None:
        import torch

        torch.set_num_threads(1)
        self._torch, self._cell, self._call = torch, cell, call
        self._dy = torch.tensor(dy)
        self._leaves = {
            name: torch.tensor(value, requires_grad=True)
            for name, value in call.items()
            if isinstance(value, np.ndarray)
        }
        if norm := call.get("layer_norm"):
            of_norm = {"gain_ih": norm.gain_ih, "gain_hh": norm.gain_hh}
            if cell == "lstm":
                of_norm |= {"gain_c": norm.gain_c, "bias_c": norm.bias_c}
            self._leaves |= {n: torch.tensor(v, requires_grad=True) for n, v in of_norm.items()}
        self._draw_masks()

    def _draw_masks(self) -> None:
        call, torch = self._call, self._torch
        (T, B, _), (GH, P) = call["x"].shape, call["w_hh"].shape
        H = GH // (3 if call.get("coupled") else GATES[self._cell])
        zoneout = call.get("zoneout", 0.0)
        pair = zoneout if isinstance(zoneout, tuple) else (zoneout, 0.0)
        self._zoneout = [
            torch.tensor(philox.happens((T, B, units), p, SEED, stream)) if p else None
            for p, units, stream in zip(
                pair, (P, H), (philox.ZONEOUT_H, philox.ZONEOUT_C), strict=True
            )
        ]
        kept = {
            "recurrent_dropout": ((1, B, P), philox.RECURRENT),
            "weight_dropout": ((1, GH, P), philox.WEIGHT),
        }
        self._kept = {
            name: torch.tensor(philox.kept(shape, call[name], SEED, stream)[0].astype(np.float32))
            for name, (shape, stream) in kept.items()
            if name in call
        }

    def run(self) -> list[Any]:
        for leaf in self._leaves.values():
            leaf.grad = None
        y = self._forward()
        y.backward(self._dy)
        return [y.detach(), *(leaf.grad for leaf in self._leaves.values())]

    def _forward(self) -> Any:
        torch, call, w = self._torch, self._call, self._leaves
        functional = torch.nn.functional
        _, batch, _ = call["x"].shape
        w_hh = w["w_hh"]
        if "weight_dropout" in call:
            w_hh = w_hh * self._kept["weight_dropout"]
        H = w["w_hr"].shape[1] if "w_hr" in w else w_hh.shape[1]
        h, c = torch.zeros(batch, w_hh.shape[1]), torch.zeros(batch, H)
        norm = call.get("layer_norm")
        clip = call.get("clip")
        functions = [getattr(self, f"_{name}") for name in self._activations()]

        def normalised(value: Any, gain: Any, bias: Any) -> Any:
            return functional.layer_norm(value, value.shape[-1:], gain, bias, norm.eps)

        def product(value: Any, weight: Any, kind: str, part: slice = slice(None)) -> Any:
            bias = w[f"b_{kind}"][part]
            if norm is None:
                return functional.linear(value, weight[part], bias)
            return normalised(functional.linear(value, weight[part]), w[f"gain_{kind}"][part], bias)

        def gate(n: int, value: Any) -> Any:
            return functions[n](value if clip is None else value.clamp(-clip, clip))

        def zoned(state: int, old: Any, new: Any, t: int) -> Any:
            mask = self._zoneout[state]
            return new if mask is None else torch.where(mask[t], old, new)

        def lstm(x: Any, h: Any, c: Any, t: int) -> Any:
            inputs = product(x, w["w_ih"], "ih") + product(h, w_hh, "hh")
            *first, a_o = inputs.chunk(3 if call.get("coupled") else 4, 1)
            if "peephole" in w:
                first[0] = first[0] + w["peephole"][0] * c
                first[1] = first[1] + w["peephole"][1] * c
            i = gate(0, first[0])
            f = 1 - i if call.get("coupled") else gate(1, first[1])
            new = f * c + i * gate(2, first[-1])
            if "cell_clip" in call:
                new = new.clamp(-call["cell_clip"], call["cell_clip"])
            seen = new if norm is None else normalised(new, w["gain_c"], w["bias_c"])
            if norm is not None and norm.variant == "state":
                new = seen
            if "peephole" in w:
                a_o = a_o + w["peephole"][2] * new
            return gate(3, a_o) * functions[4](seen), zoned(1, c, new, t)

        def gru(x: Any, h: Any, c: Any, t: int) -> Any:
            before = c if "w_hr" in w else h_whole
            x_r, x_z, x_n = product(x, w["w_ih"], "ih").chunk(3, 1)
            if call["reset_after"]:
                h_r, h_z, h_n = product(h, w_hh, "hh").chunk(3, 1)
                r = gate(0, x_r + h_r)
                inside = x_n + r * h_n
            else:
                early, late = slice(0, 2 * H), slice(2 * H, None)
                h_r, h_z = product(h, w_hh, "hh", early).chunk(2, 1)
                r = gate(0, x_r + h_r)
                inside = x_n + product(r * h, w_hh, "hh", late)
            z, n = gate(1, x_z + h_z), gate(2, inside)
            new = (1 - z) * n + z * before
            return new, new

        def rnn(x: Any, h: Any, c: Any, t: int) -> Any:
            new = gate(0, product(x, w["w_ih"], "ih") + product(h, w_hh, "hh"))
            return new, c

        step: Callable[..., Any] = {"lstm": lstm, "gru": gru, "rnn": rnn}[self._cell]
        outputs = []
        for t, x in enumerate(w["x"]):
            h_whole = h
            seen = h * self._kept["recurrent_dropout"] if "recurrent_dropout" in call else h
            output, c = step(x, seen, c, t)
            new = functional.linear(output, w["w_hr"]) if "w_hr" in w else output
            h = zoned(0, h, new, t)
            outputs.append(h)
        return torch.stack(outputs)

    def _activations(self) -> list[str]:
        usual = {
            "lstm": ["sigmoid", "sigmoid", "tanh", "sigmoid", "tanh"],
            "gru": ["sigmoid", "sigmoid", "tanh"],
            "rnn": ["tanh"],
        }
        return list(self._call.get("activations", usual[self._cell]))

    def _sigmoid(self, value: Any) -> Any:
        return value.sigmoid()

    def _tanh(self, value: Any) -> Any:
        return value.tanh()

    def _hardsigmoid(self, value: Any) -> Any:
        return (0.2 * value + 0.5).clamp(0, 1)

    def _softsign(self, value: Any) -> Any:
        return self._torch.nn.functional.softsign(value)


def ours(cell: str, call: dict[str, Any], dy: Any) -> Callable[[], list[Any]]:
    forward, backward = (getattr(fastrnn, f"{cell}_{name}") for name in ("forward", "backward"))
    names = [f"d{name}" for name, value in call.items() if isinstance(value, np.ndarray)]
    if "layer_norm" in call:
        names += ["dgain_ih", "dgain_hh", *(["dgain_c", "dbias_c"] if cell == "lstm" else [])]

    def run() -> list[Any]:
        y, _, saved = forward(**call)
        g = backward(saved, dy)
        return [y, *(getattr(g, name) for name in names)]

    return run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cell", nargs="+", default=["lstm"], choices=OPTIONS)
    parser.add_argument("--case", nargs="+", default=["32,100,256,256,1"])
    parser.add_argument("--options", nargs="+", default=None)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--no-loop", action="store_true")
    options = parser.parse_args()
    fastrnn.set_num_threads(1)
    peak = measure(1).peak["float32"]
    print(f"peak of this core's vectors: {peak / 1e9:.0f} GFLOP/s")
    differs = False
    for cell in options.cell:
        for case in choose(options.case):
            plain = arguments(cell, case, "plain")
            backend = getattr(fastrnn, f"{cell}_forward")(**plain)[2].backend
            print(f"{cell} {case.name} {backend}: option  ms  cost  work  loop ms  loop  limit")
            for option in options.options or OPTIONS[cell]:
                call = arguments(cell, case, option)
                units = call["w_hh"].shape[1]
                dy = np.random.default_rng(1).standard_normal((case.steps, case.batch, units))
                dy = dy.astype(np.float32)
                whole = np.ones((case.steps, case.batch, case.hidden_size), np.float32)
                runs = {"plain": ours(cell, plain, whole), option: ours(cell, call, dy)}
                if not options.no_loop:
                    loop = Loop(cell, call, dy)
                    runs["loop"] = loop.run
                    theirs = [np.asarray(a) for a in loop.run()]
                    apart = disagreement(case, runs[option](), theirs)
                    if apart > LARGEST_DISAGREEMENT:
                        differs = True
                        print(f"{option}: results differ, by {apart:.3g} units of rounding")
                        continue
                times = {n: t.median for n, t in interleaved(runs, options.seconds).items()}
                cost = times[option] / times["plain"]
                work = multiplications(call) / multiplications(plain)
                line = f"{option:18} {1e3 * times[option]:9.3f} {cost:6.2f} {work:6.2f}"
                if "loop" in times:
                    least = 6 * multiplications(call) * case.steps * case.batch / peak
                    line += f" {1e3 * times['loop']:9.3f} {times['loop'] / times[option]:6.2f}"
                    line += f" {times['loop'] / least:6.2f}"
                print(line, flush=True)
    return int(differs)


if __name__ == "__main__":
    sys.exit(main())
