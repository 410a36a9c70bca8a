"""fastrnn diagnose: its figures against those of backward itself, its table, its picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastrnn import functional
from fastrnn.cli import main
from fastrnn.diagnose import Report, diagnose, distances, fresh_models, table
from fastrnn.language_model.corpus import corpus_of, indices_of
from fastrnn.language_model.model import CharacterModel

TEXT = "in the beginning was the word, and the word was with the reader. " * 40


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_norms_are_those_of_a_loss_that_is_of_the_last_character(cell: str) -> None:
    """The norm at distance d is that of dh0 of a call that begins d steps before the end."""
    corpus = corpus_of(TEXT)
    model = CharacterModel(corpus.vocabulary, cell=cell, embedding=5, hidden=9, seed=1)
    (report,) = diagnose(cell, model, corpus.train, 12)
    assert report.norms.shape == (12,)
    assert report.norms[0] > 0

    starts = np.linspace(0, len(corpus.train) - 13, 32).astype(int)
    windows = corpus.train[starts[:, None] + np.arange(13)]
    p = model.parameters
    weights = [p[f"rnn.{k}_l0"] for k in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    x = p["embedding.weight"][windows[:, :-1].T]
    forward = getattr(functional, f"{cell}_forward")
    y, *_ = forward(x, *weights)
    logits = y[-1] @ p["output.weight"].T + p["output.bias"]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    probabilities[np.arange(32), windows[:, -1]] -= 1
    dh = probabilities @ p["output.weight"]
    np.testing.assert_allclose(report.norms[0], np.linalg.norm(dh, axis=1).mean(), rtol=1e-5)
    if cell == "rnn":  # one step further back, by hand
        da = dh * (1 - y[-1] ** 2)
        expected = np.linalg.norm(da @ p["rnn.weight_hh_l0"], axis=1).mean()
        np.testing.assert_allclose(report.norms[1], expected, rtol=1e-5)


def test_the_rnn_forgets_before_the_lstm_does() -> None:
    corpus = corpus_of(TEXT)
    models = fresh_models(corpus, {"hidden": 32})
    reports = {name: diagnose(name, m, corpus.train, 60)[0] for name, m in models.items()}
    ratio = {name: report.norms[30] / report.norms[0] for name, report in reports.items()}
    assert ratio["rnn"] < 0.1 * ratio["gru"]
    assert set(reports["lstm"].saturated) == set("ifgo")
    assert all(0 <= share <= 1 for r in reports.values() for share in r.saturated.values())


def test_every_level_has_its_line() -> None:
    corpus = corpus_of(TEXT)
    model = CharacterModel(corpus.vocabulary, cell="gru", embedding=5, hidden=9, layers=3)
    reports = diagnose("mine", model, corpus.train, 12)
    assert [report.name for report in reports] == [f"mine, level {n}" for n in (3, 2, 1)]
    assert len(table(reports).splitlines()) == 2 * (1 + 3) + 1  # two headed tables, a line between


def test_saturated_gates_are_counted() -> None:
    corpus = corpus_of(TEXT)
    model = CharacterModel(corpus.vocabulary, cell="lstm", embedding=5, hidden=4)
    bias = np.zeros(16, np.float32)
    bias[4:8] = 20.0  # the forget gate is open
    values = dict(model.parameters)
    model.update(values | {"rnn.bias_ih_l0": bias})
    (report,) = diagnose("open", model, corpus.train, 12)
    assert report.saturated["f"] == 1.0
    assert report.saturated["o"] < 0.5
    assert report.horizon is None


def test_table_gives_ratios_and_horizons() -> None:
    norms = 2.0 * 0.5 ** np.arange(20)
    lines = table([Report("a", norms, 7, {"f": 0.25})]).splitlines()
    assert lines[0].split() == ["distance", "0", "1", "2", "5", "10", "horizon"]
    assert lines[1].split() == ["a", "1.0e+00", "5.0e-01", "2.5e-01", "3.1e-02", "9.8e-04", "7"]
    assert lines[-1].split() == ["a", "f", "25%"]
    assert distances(101) == [0, 1, 2, 5, 10, 20, 50, 100]


def run(capsys: Any, *arguments: Any) -> tuple[int, str, str]:
    code = main(["diagnose", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_command_prints_a_line_for_each_cell_and_draws(
    capsys: Any, text: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="draws")
    picture = tmp_path / "norms.svg"
    code, out, _ = run(capsys, text, "--steps", 20, "--hidden", 8, "--train", 2, "--plot", picture)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:4]] == ["rnn", "gru", "lstm"]
    assert "<svg" in picture.read_text()


def test_command_takes_a_trained_model(capsys: Any, text: Path, tmp_path: Path) -> None:
    model = tmp_path / "m.fastrnn.safetensors"
    sizes = ("--hidden", "8", "--steps", "2", "--chunk", "8", "--batch", "2", "--embedding", "4")
    assert main(["train", str(text), "--model", str(model), *sizes]) == 0
    capsys.readouterr()
    code, out, _ = run(capsys, text, "--model", model, "--steps", 10)
    assert code == 0
    assert out.splitlines()[1].startswith("m ")


def test_command_names_what_is_wrong(capsys: Any, text: Path, tmp_path: Path) -> None:
    code, _, err = run(capsys, text, "--steps", 10**6)
    assert code == 2
    assert "1000001 are needed" in err
    code, _, err = run(capsys, tmp_path / "none")
    assert code == 2
    (tmp_path / "other").write_text("§")
    with pytest.raises(ValueError, match="characters that the model does not know: '§'"):
        indices_of(tmp_path / "other", "abc")
