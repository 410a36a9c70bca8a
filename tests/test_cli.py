"""The command line: every command runs, bad input is one line on stderr and exit code 2."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import fastrnn
from fastrnn import check, cli
from fastrnn.language_model import Trainer, default_text, read_corpus

KERAS = ["--from", "keras", "--to", "torch", "--cell", "lstm"]
SMALL = ["--hidden", "16", "--embedding", "8", "--batch", "4", "--chunk", "8"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def text():
    path = Path("text.txt")
    path.write_text(default_text().read_text()[:5000])
    return str(path)


def fastrnn_command(*arguments, **options):
    """The command in a process of its own, as users run it."""
    return subprocess.run(
        [sys.executable, "-m", "fastrnn", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )


# ---------------------------------------------------------------------- train and sample
def test_train_then_sample(text, capsys):
    assert cli.main(["train", text, "--steps", "5", *SMALL]) == 0
    out = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"held-out text: \d\.\d{3} bits a character after 5 steps \(\d+ s\); "
        r"model saved to text\.fastrnn\.safetensors",
        out[-1],
    )
    assert cli.main(["sample", "text.fastrnn.safetensors", "--length", "40", "--seed", "1"]) == 0
    first = capsys.readouterr().out
    assert len(first) == 41
    cli.main(["sample", "text.fastrnn.safetensors", "--length", "40", "--seed", "1"])
    assert capsys.readouterr().out == first


def test_a_sample_begins_with_its_prompt(text, capsys):
    cli.main(["train", text, "--steps", "1", *SMALL, "--model", "m"])
    capsys.readouterr()
    assert cli.main(["sample", "m", "--prompt", "And God", "--length", "10"]) == 0
    assert re.fullmatch(r"And God.{10}\n", capsys.readouterr().out, re.DOTALL)


def test_the_default_text_and_the_default_model_go_together(capsys):
    assert cli.main(["train", "--steps", "1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("177,180 characters to train on, 19,687 held out, 60 different")
    assert Path("genesis.fastrnn.safetensors").exists()
    assert cli.main(["sample", "--length", "5"]) == 0
    assert len(capsys.readouterr().out) == 6


def test_the_default_text_is_genesis_in_fifty_paragraphs_of_short_lines():
    text = default_text().read_text()
    assert text.startswith("In the beginning God created the heaven and the earth.")
    assert len(text.split("\n\n")) == 50
    assert max(map(len, text.splitlines())) < 80
    assert not re.search(r"\d", text)


def test_unicode_text_trains_and_samples():
    Path("greek.txt").write_text("Ἐν ἀρχῇ ἦν ὁ λόγος 😀, καὶ ὁ λόγος ἦν.\n" * 30, encoding="utf-8")
    environment = os.environ | {"PYTHONUTF8": "1"}
    options = {"env": environment, "encoding": "utf-8"}
    done = fastrnn_command("train", "greek.txt", "--steps", "20", *SMALL, **options)
    assert done.returncode == 0, done.stderr
    done = fastrnn_command("sample", "greek.fastrnn.safetensors", "--prompt", "λόγος 😀", **options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("λόγος 😀")


def losses_after(steps, text, model):
    trainer = Trainer.resume(model, read_corpus(text))
    return [trainer.advance() for _ in range(steps)]


def test_resume_continues_as_if_there_had_been_no_break(text):
    train = ["train", text, "--steps", "30", *SMALL, "--layers", "2", "--dropout", "0.2"]
    cli.main([*train, "--model", "whole"])
    cli.main([*train, "--model", "part", "--seconds", "1e-9"])  # over after one step
    assert Trainer.resume("part", read_corpus(text)).step == 1
    assert cli.main(["train", text, "--resume", "--model", "part"]) == 0
    assert Path("part").read_bytes() == Path("whole").read_bytes()


def test_the_model_does_not_depend_on_the_number_of_threads(text):
    before = fastrnn.get_num_threads()
    try:
        for threads in "12":
            cli.main(["train", text, "--steps", "20", "--threads", threads, "--model", threads])
    finally:
        fastrnn.set_num_threads(before)
    assert Path("1").read_bytes() == Path("2").read_bytes()


def test_resume_with_more_steps_trains_on(text, capsys):
    cli.main(["train", text, "--steps", "3", *SMALL])
    assert cli.main(["train", text, "--resume", "--steps", "7", "--hidden", "16"]) == 0
    assert "after 7 steps" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_saves_says_so_and_can_go_on(number, text):
    command = [sys.executable, "-m", "fastrnn", "train", text, *SMALL, "--steps", "1000000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()  # printed just before training begins
    time.sleep(1.0)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    match = re.fullmatch(
        r"stopped after step (\d+) of 1000000; saved to text\.fastrnn\.safetensors; "
        r"--resume goes on from here\n",
        stderr,
    )
    assert match, stderr
    trainer = Trainer.resume("text.fastrnn.safetensors", read_corpus(text))
    assert trainer.step == int(match[1]) > 0

    whole = Trainer(read_corpus(text), trainer.settings)
    for _ in range(trainer.step):
        whole.advance()
    assert [trainer.advance() for _ in range(3)] == [whole.advance() for _ in range(3)]


def test_a_reader_who_has_seen_enough_is_no_error(text):
    cli.main(["train", text, "--steps", "1", *SMALL, "--model", "m"])
    command = f"{sys.executable} -m fastrnn sample m --length 100000 | head -c 10"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False
    )
    assert len(done.stdout) == 10
    assert done.stderr == ""


# ---------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "missing.txt"], "missing.txt: No such file or directory"),
        (["train", "."], ".: Is a directory"),
        (["train", "empty"], "empty is empty"),
        (["train", "binary"], "binary is not a UTF-8 text"),
        (
            ["train", "short"],
            "too short: a batch of 32 rows of 64 characters takes 2049",
        ),
        (["train", "shorter", "--batch", "1", "--chunk", "1"], "too short to hold out a tenth"),
        (["train", "text.txt", "--resume"], "text.fastrnn.safetensors: No such file or directory"),
        (["train", "text.txt", "--resume", "--model", "torn"], "torn is damaged or not a model"),
        (["train", "short", "--resume", "--model", "model"], "model was trained on another text"),
        (
            ["train", "text.txt", "--resume", "--model", "model", "--hidden", "17"],
            "--hidden 17: model was trained with 16; of its settings only --steps can change",
        ),
        (["train", "text.txt", "--model", "no/such/folder"], "no/such/folder: no such folder"),
        (["train", "text.txt", "--hidden", "0"], "hidden must be at least 1, got 0"),
        (["train", "text.txt", "--cell", "mgu"], "cell must be lstm, gru or rnn, got mgu"),
        (["sample"], "genesis.fastrnn.safetensors: No such file or directory"),
        (["sample", "torn"], "torn is damaged or not a model"),
        (["sample", "text.txt"], "text.txt is damaged or not a model"),
        (["sample", "layer"], "layer is not a model of fastrnn train"),
        (["sample", "model", "--prompt", "~"], "the prompt has characters that .* had not: '~'"),
        (["bench", "--case", "1,2,3"], "a case is five numbers B,T,I,H,L"),
        (["bench", "--case", "1,2,3,0,1"], "every number of a case must be at least 1"),
        (["bench", "--case", "1,2,3,4,1+fly"], r"\+fly is none of \+lengths, \+bidirectional"),
        (["bench", "--case", "1,2,3,4,1+step"], "one step in one direction: T = 1"),
        (["bench", "--json", "no/such/figures"], "no/such/figures: no such folder to save to"),
        (["bench", "compare", "model", "missing"], "model is not a file of fastrnn bench"),
        (["bench", "plot", "missing", "a.svg"], "missing: No such file or directory"),
        (["train", "text.txt", "--model", "."], r"\.: is a folder, not a file"),
        (["train", "text.txt", "--model", "/proc/m"], "/proc/m: cannot write to its folder: "),
        (["diagnose", "--plot", "no/such/a.svg"], "no/such/a.svg: no such folder to save to"),
        (["diagnose", "empty"], "empty is empty"),
        (["diagnose", "--model", "torn"], "torn is damaged or not a model"),
        (["example", "notation", "--picture", "/proc/a.svg"], "/proc/a.svg: cannot write to"),
        (
            ["example", "notation", "--quick", "--picture", "a.fly"],
            "not a picture that can be drawn",
        ),
        (["convert", "missing.npz", "a.npz", *KERAS], "missing.npz: No such file or directory"),
        (["convert", "text.txt", "a.npz", *KERAS], r"text\.txt"),
    ],
)
def test_bad_input_is_one_line_on_stderr_and_exit_code_2(arguments, message, text, capsys):
    cli.main(["train", text, "--steps", "1", *SMALL, "--model", "model"])
    Path("torn").write_bytes(Path("model").read_bytes()[:-100])
    Path("empty").write_text("")
    Path("binary").write_bytes(b"\xff\xfe\x00")
    Path("short").write_text("In the beginning\n" * 100)
    Path("shorter").write_text("In the be")
    fastrnn.LSTM(3, 4).save("layer")
    capsys.readouterr()
    assert cli.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith(f"fastrnn {arguments[0]}: error: ")
    assert re.search(message, printed.err)


@pytest.mark.parametrize(
    "arguments",
    [
        ["fly"],
        ["example", "fly"],
        ["train", "--steps", "x"],
        ["train", "--seconds", "0"],
        ["sample", "--temperature", "-1"],
        ["sample", "--temperature", "nan"],
        ["sample", "--length", "1.5"],
        ["bench", "--cell", "transformer"],
        ["check", "--threads", "0"],
    ],
)
def test_wrong_arguments_show_the_usage_and_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code == 2
    assert capsys.readouterr().err.startswith("usage: fastrnn")


COMMANDS = ["info", "check", "bench", "train", "diagnose", "sample", "example", "convert"]


def test_alone_it_prints_help_that_fits_a_screen(capsys):
    assert cli.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("usage: fastrnn")
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    listed = [line.split()[0] for line in lines if re.match(r" {4}\w", line)]
    assert listed[-len(COMMANDS) :] == COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_an_example_of_its_command(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as exit_:
        cli.main([name, "--help"])
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: fastrnn {name} ")
    example = shlex.split(re.search(r"^example: fastrnn (.*)$", out, re.MULTILINE)[1])
    assert example[0] == name
    assert cli._parser().parse_args(example).command == name


def test_a_package_that_is_missing_is_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.backend_bases", None)
    assert cli.main(["example", "notation", "--quick"]) == 2
    assert re.fullmatch(
        r'fastrnn example: error: matplotlib is not installed; pip install "fastrnn\[plot\]"\n',
        capsys.readouterr().err,
    )


# ---------------------------------------------------------------------- where the output goes
def test_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fastrnn", "info"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == "fastrnn info: error: [Errno 28] No space left on device\n"


def test_a_reader_that_is_gone_or_no_stdout_at_all_is_no_error():
    command = f"{sys.executable} -m fastrnn info"
    gone = subprocess.run(
        ["bash", "-c", f"({command}; echo $? >&2) | true"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert gone.stderr in ("141\n", "0\n")  # 0: it was faster than true
    closed = subprocess.run(
        ["bash", "-c", f"{command} >&-"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (closed.returncode, closed.stderr) == (0, "")


def test_letters_that_the_terminal_lacks_are_shown_by_number(text):
    Path("greek.txt").write_text("λόγος " * 500, encoding="utf-8")
    cli.main(["train", "greek.txt", "--steps", "1", *SMALL, "--model", "m"])
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = fastrnn_command("sample", "m", "--length", "5", env=environment)
    assert (done.returncode, done.stderr) == (0, "")


def test_control_c_is_one_line_and_exit_code_130():
    script = "import sys; from fastrnn.cli import main; print(flush=True); sys.exit(main())"
    command = [sys.executable, "-c", script, "diagnose", "--train", "100000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    time.sleep(2.0)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (130, "fastrnn: interrupted\n")


def test_control_c_keeps_what_bench_has_measured(monkeypatch, capsys):
    bench = import_module("fastrnn.bench.run")
    lines = []

    def line(*arguments):
        if lines:
            raise KeyboardInterrupt
        lines.append(right(*arguments))
        return lines[0]

    right = bench._line
    monkeypatch.setattr(bench, "_line", line)
    case = ["--cell", "rnn", "--case", "1,2,3,4,1", "--peer", "--seconds", "0.01"]
    assert cli.main(["bench", *case, "--json", "figures.json"]) == 130
    assert capsys.readouterr().err == "fastrnn: interrupted\n"
    assert len(json.loads(Path("figures.json").read_text())["results"]) == 1


def test_json_is_what_the_text_says(text, capsys):
    cli.main(["info", "--json"])
    assert json.loads(capsys.readouterr().out)["numpy"] == np.__version__
    assert cli.main(["check", "--json"]) == 0
    checks = json.loads(capsys.readouterr().out)
    assert len(checks) == 5 * 2 * len(fastrnn.backends())
    assert all(c["passed"] and c["forward"]["ulp"] < 64 for c in checks)
    diagnose = ["diagnose", text, "--hidden", "8", "--steps", "12", "--json", "--plot", "a.svg"]
    assert cli.main(diagnose) == 0
    reports = json.loads(capsys.readouterr().out)
    assert [report["name"] for report in reports] == ["rnn", "gru", "lstm"]
    assert len(reports[0]["norms"]) == 12


# ---------------------------------------------------------------------- info, check
def test_info_names_versions_backends_and_threads(capsys):
    assert cli.main(["info"]) == 0
    lines = dict(re.split(" {2,}", line) for line in capsys.readouterr().out.splitlines())
    assert lines["numpy"] == np.__version__
    assert lines["backends"].split(", ")[0] == fastrnn.backends()[0]
    assert lines["threads"] == str(fastrnn.get_num_threads())


def test_built_for_names_cuda_only_where_the_build_has_it(capsys):
    why = ""
    try:
        x = np.ones((1, 1, 1))
        fastrnn.rnn_forward(x, x[0], x[0], backend="cuda")
    except ValueError as error:
        why = str(error)
    assert cli.main(["info", "--json"]) == 0
    built_for = json.loads(capsys.readouterr().out)["built for"].split(", ")
    assert ("cuda" in built_for) != ("built without CUDA" in why)


def test_check_covers_every_cell_dtype_and_backend_and_passes_and_threads_are_set(capsys):
    before = fastrnn.get_num_threads()
    try:
        assert cli.main(["check", "--threads", "1"]) == 0
        assert fastrnn.get_num_threads() == 1
    finally:
        fastrnn.set_num_threads(before)
    rows = capsys.readouterr().out.splitlines()[2:-1]
    assert len(rows) == 5 * 2 * len(fastrnn.backends())
    for row in rows:
        forward, gradients = (float(row[start:][:10]) for start in (36, 58))
        assert 0 < forward < 64
        assert 0 < gradients < 64


@pytest.mark.parametrize("wrong", [1e-5, np.nan])
@pytest.mark.parametrize("function", ["gru_forward", "gru_backward"])
def test_check_fails_where_a_result_is_wrong(wrong, function, monkeypatch, capsys):
    right = getattr(fastrnn.functional, function)

    def changed(*arguments, **options):
        first, *rest = right(*arguments, **options)
        first += wrong
        return first, *rest

    monkeypatch.setattr(fastrnn.functional, function, changed)
    monkeypatch.setattr(check, "VARIANTS", {name: check.VARIANTS[name] for name in ("gru", "lstm")})
    assert cli.main(["check"]) == 1
    out = capsys.readouterr().out
    bad = [line for line in out.splitlines() if line.endswith("TOO LARGE")]
    assert bad
    assert all(line.startswith("gru") for line in bad)


# ---------------------------------------------------------------------- start
def test_importing_fastrnn_and_the_command_line_imports_no_framework():
    script = (
        "import sys, fastrnn, fastrnn.cli; fastrnn.cli.main(['info']); "
        "print(*{'torch', 'jax', 'keras', 'onnx', 'openvino', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == ""


def test_python_m_fastrnn_is_the_command():
    done = fastrnn_command("sample")
    assert done.returncode == 2
    assert done.stderr == (
        "fastrnn sample: error: genesis.fastrnn.safetensors: No such file or directory\n"
    )
