"""Each program of the lecture does what it says: `fastrnn example NAME --quick`."""

from __future__ import annotations

import io
import json
import re
import tarfile
from importlib.resources import files
from pathlib import Path

import pytest
from commands import ROOT

from fastrnn import cli
from fastrnn.examples import SUMMARIES, music
from fastrnn.examples.film_reviews import SOURCE, film_reviews
from fastrnn.examples.shared import Goal
from fastrnn.language_model.adam import Adam

PROGRAMS = ROOT / "python" / "fastrnn" / "examples"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def _one_thread():
    torch = pytest.importorskip("torch", reason="the programs on fastrnn.torch need torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("name", SUMMARIES)
def test_a_program_reaches_its_goals_and_saves_a_picture(name, capsys):
    assert cli.main(["example", name, "--quick", "--picture", "a.png"]) == 0, capsys.readouterr()
    out = capsys.readouterr().out
    assert re.search(r"\(goal: at (most|least) [\d.e-]+\)\npicture: a\.png\n$", out), out
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")


# Which rows of which gradients are lost. The forget gate's program does without weight_hh, as its
# gate looks at x alone: there those of the gate itself are lost, f of i f g o with two units.
BROKEN = {
    "gradients": ("weight_hh", slice(None)),
    "next_word": ("weight_hh", slice(None)),
    "forget_gate": ("", slice(2, 4)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_gradient_misses_a_goal(name, monkeypatch, capsys):
    part, rows = BROKEN[name]
    step = Adam.step

    def broken(self, gradients, *arguments, **options):
        gradients = {key: gradient.copy() for key, gradient in gradients.items()}
        for key, gradient in gradients.items():
            if part in key:
                gradient[rows] = 0
        return step(self, gradients, *arguments, **options)

    monkeypatch.setattr(Adam, "step", broken)
    assert cli.main(["example", name, "--quick", "--picture", "a.png"]) == 1
    assert ": MISSED\n" in capsys.readouterr().out


def test_the_list_names_every_program_and_there_is_no_other(capsys):
    assert cli.main(["example"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    written = {path.stem for path in PROGRAMS.glob("*.py")}
    assert set(listed) == written - {"__init__", "film_reviews", "shared", "tasks", "training"}


def test_a_goal_that_was_missed_is_told_and_is_exit_code_1(monkeypatch, capsys):
    goals = [Goal("error", 2.0, 1.0, at_most=True), Goal("right", 0.5, 0.5)]
    monkeypatch.setattr("fastrnn.examples.run", lambda *_: goals)
    assert cli.main(["example", "notation"]) == 1
    assert capsys.readouterr().out.splitlines()[:2] == [
        "error: 2 (goal: at most 1): MISSED",
        "right: 0.5 (goal: at least 0.5)",
    ]
    assert cli.main(["example", "notation", "--json"]) == 1
    assert [goal["met"] for goal in json.loads(capsys.readouterr().out)] == [False, True]


@pytest.mark.parametrize("value", [float("nan"), -1.0])
def test_nan_reaches_no_goal(value):
    assert not Goal("right", value, 0.0).met
    assert not Goal("error", abs(value) + 1, 1.0, at_most=True).met


def test_the_same_run_gives_the_same_figures_and_the_same_picture(capsys):
    runs = []
    for name in ("a.svg", "b.svg"):
        assert cli.main(["example", "notation", "--quick", "--json", "--picture", name]) == 0
        runs.append((json.loads(capsys.readouterr().out), Path(name).read_bytes()))
    assert runs[0] == runs[1]


def test_the_programs_are_short_enough_to_read():
    lines = {path.name: len(path.read_text().splitlines()) for path in PROGRAMS.glob("*.py")}
    assert {name: count for name, count in lines.items() if count > 180} == {}


def test_the_notebook_runs(monkeypatch, capsys):
    monkeypatch.setenv("MPLBACKEND", "agg")
    cells = json.loads((ROOT / "examples" / "tour.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 5
    names = {}
    for cell in code:
        exec(cell, names)
    assert any("image/png" in str(cell.get("outputs")) for cell in cells), "no picture is kept"


def test_every_bar_of_the_tunes_is_full():
    tunes = music.tunes()
    assert len(tunes) == 48
    for tune in tunes:
        assert set(music.bars(tune)) <= {music.METRES[tune[0]]}, tune


def test_film_reviews_are_read_where_their_archive_is(tmp_path):
    lines = ["1\t2.5\tIt's good!", "2\t-1.0\tNot   moving, dull.", "3\t0.4\tAverage", "4\t3\t 9"]

    def pack(path, name, content):
        with tarfile.open(path, "w:gz") as archive:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        return path.read_bytes()

    text = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
    inner = pack(tmp_path / "inner", text, "\n".join(lines).encode())
    name = SOURCE.name.removesuffix(".tar.gz") + "/additional_resources/hutto_ICWSM_2014.tar.gz"
    pack(SOURCE, name, inner)
    assert film_reviews(SOURCE) == [
        (["it's", "good", "!"], 1),
        (["not", "moving", ",", "dull", "."], 0),
    ]


def test_the_source_of_every_data_file_is_told():
    folder = files("fastrnn") / "data"
    told = (folder / "README.md").read_text()
    for file in folder.iterdir():
        assert file.name == "README.md" or f"`{file.name}`" in told, file.name
