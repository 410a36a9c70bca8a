"""The benchmark's words: its table and summary, two runs beside each other, the plot."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

Figures = dict[str, Any]  # what run.py writes
OURS = "fastrnn"


def preamble(figures: Figures) -> str:
    """The machine and the contestants."""
    versions = ", ".join(f"{name} {version}" for name, version in figures["versions"].items())
    peak = ", ".join(f"{name} {flops / 1e9:.0f}" for name, flops in figures["peak_flops"].items())
    bandwidth = ", ".join(
        f"{_size(point['bytes'])} {point['bytes_per_second'] / 1e9:.0f}"
        + (f" ({point['level']})" if point["level"] else "")
        for point in figures["read_bandwidth"]
    )
    lines = [
        f"{figures['processor']}; {figures['backend']}; threads: {figures['threads']}; {versions}",
        f"peak GFLOP/s: {peak}",
        f"read GB/s, by what a thread reads: {bandwidth}",
    ]
    lines += [f"not installed: {name} ({why})" for name, why in figures["missing"].items()]
    if figures["load_before"] > 0.5:
        lines.append(
            f"other processes keep {figures['load_before']:.1f} cores busy: "
            "the figures are worth little"
        )
    lines.append("milliseconds a call: median, and half the interquartile range in percent;")
    lines.append("/best: the fastest peer's time over ours; floor: the share of the least time")
    return "\n".join(lines)


def header(names: Sequence[str]) -> str:
    columns = "".join(f"{name:>17}" for name in names)
    return f"{'cell mode B,T,I,H,L':48}{columns}{'/best':>8}{'floor':>7}"


def row(result: Figures, names: Sequence[str]) -> str:
    """A line of the table."""
    cells = []
    for name in names:
        if name in result["seconds"]:
            median, spread, _ = result["seconds"][name].values()
            cells.append(f"{median * 1e3:>11.4f} ±{spread / median * 100:>3.0f}%")
        else:
            cells.append("DIFFERS" if name in result["differ"] else "-")
    best = _ratio(result)
    line = f"{' '.join((result['cell'], result['mode'], result['case'])):48}"
    line += "".join(f"{cell:>17}" for cell in cells)
    line += f"{best:>7.2f}x" if best else f"{'-':>8}"
    line += f"{result['share_of_floor'][OURS]:>7.2f}"
    if result["differ"]:
        line += f"  RESULTS DIFFER: {', '.join(result['differ'])}"
    return line


def summary(results: Sequence[Figures]) -> str:
    """For each cell and mode how many times faster we are: the geometric mean over all lines, and
    where it is least; and who could not take part, and why.
    """
    lines = [f"{'times faster than':18}{'best peer':>10}{'torch':>10}   best peer, at the least"]
    for group in dict.fromkeys((result["cell"], result["mode"]) for result in results):
        members = [r for r in results if (r["cell"], r["mode"]) == group]
        best = {r["case"]: ratio for r in members if (ratio := _ratio(r))}
        torch = [ratio for r in members if (ratio := _ratio(r, "torch"))]
        line = f"{' '.join(group):18}"
        for ratios in (best.values(), torch):
            line += f"{geometric_mean(ratios):>9.2f}x" if ratios else f"{'-':>10}"
        if best:
            worst = min(best, key=best.__getitem__)
            line += f"   {best[worst]:.2f}x  {worst}"
        lines.append(line)
    reasons = {
        f"{name} {reason}" for result in results for name, reason in result["unsupported"].items()
    }
    return "\n".join([*lines, *(f"-: {reason}" for reason in sorted(reasons))])


def geometric_mean(values: Iterable[float]) -> float:
    logarithms = [math.log(value) for value in values]
    return math.exp(math.fsum(logarithms) / len(logarithms))


def read(path: Path) -> Figures:
    """What `fastrnn bench --json` wrote. Raises OSError, ValueError."""
    try:
        figures = json.loads(path.read_text())
        figures["results"][0]["share_of_floor"][OURS]
    except (ValueError, TypeError, LookupError):
        raise ValueError(f"{path} is not a file of fastrnn bench") from None
    return dict(figures)


def compare(first: Path, second: Path) -> str:
    """Our figures of two runs, line by line: how many times faster the second is.

    Only a difference larger than both spreads together is called one. The share of the floor
    compares runs on different machines. Raises OSError, ValueError.
    """
    before, after = ({_key(r): r for r in read(path)["results"]} for path in (first, second))
    lines = [f"{'milliseconds a call':48}{'A':>12}{'B':>12}{'A/B':>8}{'floor A':>9}{'floor B':>9}"]
    ratios = []
    for key in before.keys() & after.keys():
        a, b = (runs[key]["seconds"][OURS] for runs in (before, after))
        ratios.append(a["median"] / b["median"])
    for key in [*before, *(k for k in after if k not in before)]:
        name = f"{' '.join(key):48}"
        if key not in before or key not in after:
            lines.append(f"{name}only in {'A' if key in before else 'B'}")
            continue
        a, b = (runs[key]["seconds"][OURS] for runs in (before, after))
        shares = [runs[key]["share_of_floor"][OURS] for runs in (before, after)]
        line = f"{name}{a['median'] * 1e3:>12.4f}{b['median'] * 1e3:>12.4f}"
        line += f"{a['median'] / b['median']:>7.2f}x{shares[0]:>9.2f}{shares[1]:>9.2f}"
        if abs(a["median"] - b["median"]) > a["spread"] + b["spread"]:
            line += "  faster" if b["median"] < a["median"] else "  SLOWER"
        lines.append(line)
    if ratios:
        lines.append(f"{'geometric mean':72}{geometric_mean(ratios):>7.2f}x")
    return "\n".join(lines)


def plot(figures: Figures, path: Path) -> None:
    """The share of the floor of every contestant, a panel for each cell and mode; the format is
    that of the path's suffix. Needs matplotlib. Raises ImportError, OSError, ValueError.
    """
    matplotlib: Any = import_module("matplotlib")
    figures_of: Any = import_module("matplotlib.figure")
    results = figures["results"]
    groups = list(dict.fromkeys((r["cell"], r["mode"]) for r in results))
    cases = list(dict.fromkeys(r["case"] for r in results))
    names = list(dict.fromkeys(name for r in results for name in r["seconds"]))
    columns = min(2, len(groups))
    rows = -(-len(groups) // columns)
    # narrow enough that the text can be read on a telephone
    figure = figures_of.Figure(
        figsize=(1.3 + 1.9 * columns, 0.9 + (0.5 + 0.17 * len(cases)) * rows), layout="constrained"
    )
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True, sharex=True)
    for panel in panels.flat[len(groups) :]:
        panel.set_visible(False)
    for panel, group in zip(panels.flat, groups, strict=False):
        for i, name in enumerate(names):
            points = [
                (r["share_of_floor"][name], cases.index(r["case"]))
                for r in results
                if (r["cell"], r["mode"]) == group and name in r["seconds"]
            ]
            style = {"marker": "o", "s": 30, "zorder": 3} if name == OURS else {"marker": "x"}
            if not points:
                continue
            panel.scatter(*zip(*points, strict=True), label=name, color=f"C{i}", **style)
        panel.set_title(" ".join(group), fontsize=10)
        panel.set_xlim(0, None)
        panel.axvline(1, color="grey", linewidth=0.8)
        panel.grid(alpha=0.3)
        panel.tick_params(labelsize=8)
        panel.set_yticks(range(len(cases)), cases)
    panels[0, 0].invert_yaxis()
    handles: dict[str, Any] = {}
    for panel in panels.flat:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=3, fontsize=9)
    figure.supxlabel(
        "share of the floor (1: as fast as the machine can)\n"
        f"{figures['processor']}, threads: {figures['threads']}",
        fontsize=9,
    )
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # text as text, which is small
        figure.savefig(path, dpi=150)


def _ratio(result: Figures, peer: str | None = None) -> float | None:
    """A peer's time (of None: the fastest one's) over ours."""
    seconds = result["seconds"]
    others = [
        timing["median"]
        for name, timing in seconds.items()
        if name != OURS and (peer is None or name == peer)
    ]
    return min(others) / seconds[OURS]["median"] if others else None


def _key(result: Figures) -> tuple[str, str, str]:
    return result["cell"], result["mode"], result["case"]


def _size(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"
