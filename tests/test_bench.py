"""What the benchmark claims of itself: who is compared and timed, what the floor is. Not speed."""

from __future__ import annotations

import gc
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastrnn
from fastrnn import _core, cli
from fastrnn.bench import peers, report, timing
from fastrnn.bench.cases import CELLS, MORE, SHAPES, SUITES, Case, choose, parse
from fastrnn.bench.floor import Machine, floor, measure
from fastrnn.bench.problem import LARGEST_DISAGREEMENT, Unsupported, disagreement, make_problem

RUN = import_module("fastrnn.bench.run")  # the package's `run` is its function
ONE = Machine({"float32": 1e9, "float64": 5e8}, {1024: 1e9, 65536: 1e8}, threads=1)
TINY = ("2,3,4,5,1", "2,7,4,5,2+lengths+bidirectional", "2,3,4,5,1+float64", "2,1,4,5,2+step")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose limits are known at once."""
    monkeypatch.setattr(RUN, "measure", lambda threads: ONE)


@pytest.fixture(scope="module")
def contestants() -> dict[str, Any]:
    before = fastrnn.get_num_threads()
    found, _ = peers.contestants(1)
    fastrnn.set_num_threads(before)
    return {peer.name: peer for peer in found}


# ------------------------------------------------------------------------------------------- cases


def test_every_case_is_found_by_its_name_and_named_once() -> None:
    names = [case.name for case in SUITES["all"]]
    assert len(set(names)) == len(names)
    assert choose(tuple(names)) == SUITES["all"] == SHAPES + MORE
    assert choose(("more", MORE[0].name, "shapes")) == MORE + SHAPES


def test_the_cases_hold_every_variant_and_one_two_and_four_layers() -> None:
    assert len(SHAPES) == 13
    for variant in ("lengths", "bidirectional", "float64", "step"):
        assert any(getattr(case, variant) for case in MORE)
    assert {case.layers for case in SUITES["all"]} == {1, 2, 4}


def test_lengths_are_the_same_each_time_and_about_55_percent_of_all_steps() -> None:
    case = parse("1000,100,1,1,1+lengths")
    lengths = case.row_lengths()
    assert np.array_equal(lengths, case.row_lengths())
    assert 0.5 < lengths.sum() / (1000 * 100) < 0.6
    assert lengths.min() >= 1


# ------------------------------------------------------------------------------------------- floor


def test_the_floor_of_one_row_is_the_reading_of_w_hh_and_of_many_the_arithmetic() -> None:
    one, many = parse("1,10,4,64,1"), parse("1000,10,4,64,1")
    weights = 4 * 64 * 64
    product = 2 * 4 * 64 * 4 * 10 / 1e9
    assert floor("lstm", one, "infer", ONE) == pytest.approx(10 * weights * 4 / 1e8 + product)
    arithmetic = 1000 * (2 * weights * 10 / 1e9 + product)
    assert floor("lstm", many, "infer", ONE) == pytest.approx(arithmetic)


def test_the_floor_counts_valid_steps_directions_layers_dtype_and_training() -> None:
    case = Case(50, 20, 32, 32, 1)
    for cell, gates in (("rnn", 1), ("gru", 3), ("lstm", 4)):
        least = floor(cell, case, "infer", ONE)
        assert least == pytest.approx(2 * (2 * gates * 32 * 32) * 50 * 20 / 1e9)
        assert floor(cell, case, "train", ONE) == pytest.approx(3 * least)
        assert floor(cell, case._replace(layers=3), "infer", ONE) == pytest.approx(3 * least)
        assert floor(cell, case._replace(float64=True), "infer", ONE) == pytest.approx(2 * least)
        both = floor(cell, case._replace(bidirectional=True), "infer", ONE)
        assert both == pytest.approx(2 * least)
        rows = case._replace(lengths=True).row_lengths().sum()
        some = floor(cell, case._replace(lengths=True), "infer", ONE)
        assert some == pytest.approx(least * rows / 1000)


def test_training_reads_the_recurrent_weights_forwards_and_backwards() -> None:
    slow = ONE._replace(bandwidth={1: 1.0})
    case = parse("1,50,32,32,1")
    once = floor("lstm", case, "infer", slow)
    assert floor("lstm", case, "train", slow) == pytest.approx(2 * once)


def test_each_thread_reads_its_share_of_the_weights_from_the_memory_that_holds_it() -> None:
    assert ONE.read_seconds(65536) == 65536 / 1e8
    assert ONE.read_seconds(65535) == 65535 / 1e9
    assert ONE._replace(threads=2).read_seconds(65536) == 65536 / 1e9
    assert ONE.read_seconds(16) == 16 / 1e9


@pytest.mark.parametrize("threads", [1, 2])
def test_the_measured_machine_has_a_believable_peak_and_bandwidth(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastrnn.bench.floor._SIZES", (1 << 14, 1 << 20))
    found = measure(threads)
    for limit in (*found.peak.values(), *found.bandwidth.values()):
        assert 1e8 < limit < 1e13 * threads


@pytest.mark.parametrize("backend", [b for b in fastrnn.backends() if b != "cuda"])
def test_the_probes_count_the_work_of_their_rounds(backend: str) -> None:
    for is_double in (False, True):
        flops = _core.probe_multiply_add(1, is_double, backend)
        assert flops > 0
        assert _core.probe_multiply_add(1000, is_double, backend) == 1000 * flops
    memory = _core.ProbeMemory(1 << 14)
    assert memory.read(3, backend) == 3 << 14


# -------------------------------------------------------------------------------------- comparison


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        ("lstm", "2,7,4,5,2+lengths+bidirectional"),
        ("gru", "2,7,4,5,1+lengths+bidirectional"),
        ("rnn", "2,7,4,5,1+lengths"),
        ("gru", "2,3,4,5,1+float64"),
        *((cell, "2,1,4,5,2+step") for cell in CELLS),
    ],
)
@pytest.mark.parametrize("peer", list(peers.PEERS))
def test_a_peer_computes_what_we_do_or_says_why_not(
    peer: str, name: str, cell: str, contestants: dict[str, Any]
) -> None:
    if peer not in contestants:
        pytest.skip(f"{peer} is not installed")
    problem = make_problem(cell, parse(name))
    for mode in problem.case.modes:
        ours = contestants["fastrnn"].prepare(problem, mode)
        try:
            theirs = contestants[peer].prepare(problem, mode)
        except Unsupported:
            assert peer in {"onnxruntime", "openvino"}
            assert mode == "train" or problem.case.float64
            continue
        results = [run.to_numpy(run.call()) for run in (ours, theirs)]
        assert len(results[0]) == (1 if mode == "infer" else 2 + len(problem.parameters))
        assert disagreement(problem.case, *results) <= LARGEST_DISAGREEMENT


@pytest.mark.parametrize("wrong", [1e-3, np.nan, np.inf])
def test_wrong_results_disagree(wrong: float) -> None:
    case = parse("2,3,4,5,1")
    right = np.ones((3, 2, 5), np.float32)
    assert disagreement(case, [right], [right]) == 0
    assert disagreement(case, [right], [right + np.float32(1e-6)]) <= LARGEST_DISAGREEMENT
    off = right.copy()
    off[1, 1, 1] += wrong
    assert not disagreement(case, [right], [off]) <= LARGEST_DISAGREEMENT
    assert disagreement(case, [right], [right[1:]]) == np.inf
    assert disagreement(case, [right], [right.astype(np.float64)]) == np.inf


def bench(*arguments: str) -> int:
    """With one thread: more would mostly wait for each other where cores are few."""
    before = fastrnn.get_num_threads()
    try:
        return cli.main(["bench", "--seconds", "1e-9", "--threads", "1", *arguments])
    finally:
        fastrnn.set_num_threads(before)


@pytest.mark.usefixtures("machine")
def test_a_peer_whose_results_differ_is_not_timed_and_the_exit_code_is_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    right = peers.Torch.prepare

    def wrong(self: Any, problem: Any, mode: str) -> Any:
        run = right(self, problem, mode)
        changed = lambda: [tensor + 1e-3 for tensor in run.call()]  # noqa: E731
        return run._replace(call=changed) if mode == "infer" else run

    monkeypatch.setattr(peers.Torch, "prepare", wrong)
    options = ("--case", "2,3,4,5,1", "--cell", "lstm", "--peer", "torch", "--json", "figures")
    assert bench(*options) == 1
    infer, train = json.loads(Path("figures").read_text())["results"]
    assert set(infer["seconds"]) == {"fastrnn"}
    assert list(infer["differ"]) == ["torch"]
    assert set(train["seconds"]) == {"fastrnn", "torch"}
    assert not train["differ"]
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("lstm ")]
    assert rows[0].endswith("RESULTS DIFFER: torch")
    assert not rows[1].endswith("DIFFER: torch")


# ------------------------------------------------------------------------------------------ timing


def test_each_contestant_runs_once_a_round_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(timing, "_repeats", lambda call: 1)
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    timed = timing.interleaved(calls, 1e-9)
    assert order == list("abc") * 5
    assert {t.rounds for t in timed.values()} == {5}
    assert gc.isenabled()


def test_a_figure_is_the_median_and_half_the_interquartile_range() -> None:
    assert timing._summary([5.0, 1.0, 2.0, 100.0, 3.0]) == (3.0, 1.5, 5)


# ------------------------------------------------------------------------------------- the command


@pytest.mark.usefixtures("machine")
def test_the_json_tells_the_machine_the_versions_and_every_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("torch")
    Path("results").mkdir()
    assert bench("--case", *TINY, "--peer", "torch", "--json", "results") == 0
    (written,) = Path("results").glob("*.json")
    figures = report.read(written)
    assert {"date", "commit", "processor", "threads", "backend", "peak_flops"} <= set(figures)
    assert set(figures["versions"]) == {"fastrnn", "torch", "numpy"}
    assert len(figures["results"]) == 3 * (2 * 4 - 1)
    for result in figures["results"]:
        assert set(result["seconds"]) == {"fastrnn", "torch"}
        for name, timed in result["seconds"].items():
            assert result["share_of_floor"][name] == result["floor"] / timed["median"] > 0
    out = capsys.readouterr().out
    assert sum(line.startswith(CELLS) for line in out.splitlines()) == 3 * 7 + 3 * 2


@pytest.mark.usefixtures("machine")
def test_a_peer_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(threads: int) -> Any:
        raise ModuleNotFoundError("No module named 'jax'")

    monkeypatch.setitem(peers.PEERS, "jax", missing)
    assert bench("--case", "1,1,4,5,1", "--peer", "jax", "--cell", "rnn", "--json", "f") == 0
    assert "not installed: jax (No module named 'jax')" in capsys.readouterr().out
    assert list(report.read(Path("f"))["missing"]) == ["jax"]


def figures(**milliseconds: float) -> dict[str, Any]:
    return {
        "processor": "a processor",
        "threads": 1,
        "results": [
            {
                "cell": "lstm",
                "mode": "infer",
                "case": case,
                "seconds": {"fastrnn": {"median": ms / 1e3, "spread": 1e-4, "rounds": 5}},
                "share_of_floor": {"fastrnn": 0.5 / ms},
            }
            for case, ms in milliseconds.items()
        ],
    }


def test_compare_shows_ratios_beyond_the_spreads_their_mean_and_what_only_one_has(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("a").write_text(json.dumps(figures(quick=4.0, slow=1.0, same=1.0, old=1.0)))
    Path("b").write_text(json.dumps(figures(quick=1.0, slow=2.0, same=1.1, new=1.0)))
    assert cli.main(["bench", "compare", "a", "b"]) == 0
    lines = {
        line.split()[2]: " ".join(line.split()[3:])
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("lstm")
    }
    assert lines == {
        "quick": "4.0000 1.0000 4.00x 0.12 0.50 faster",
        "slow": "1.0000 2.0000 0.50x 0.50 0.25 SLOWER",
        "same": "1.0000 1.1000 0.91x 0.50 0.45",
        "old": "only in A",
        "new": "only in B",
    }
    mean = report.compare(Path("a"), Path("b")).splitlines()[-1].split()[-1]
    assert mean == f"{(4 * 0.5 / 1.1) ** (1 / 3):.2f}x"


@pytest.mark.parametrize(("suffix", "start"), [("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_plot_draws_the_format_of_the_suffix(suffix: str, start: bytes) -> None:
    pytest.importorskip("matplotlib")
    Path("a").write_text(json.dumps(figures(one=4.0, two=1.0)))
    assert cli.main(["bench", "plot", "a", f"picture.{suffix}"]) == 0
    assert Path(f"picture.{suffix}").read_bytes().startswith(start)


def test_the_commit_is_that_of_the_code() -> None:
    commit = RUN._commit()
    assert commit is None or len(commit.rstrip("+")) == 40
