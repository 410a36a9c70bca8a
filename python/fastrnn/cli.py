"""The command `fastrnn`: info, check, bench, train, sample, diagnose, example, convert. Each part
is imported when it is asked for.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import get_num_threads, set_num_threads
from .info import information, installed, show_config

if TYPE_CHECKING:
    from .language_model import Trainer

_MODEL_SUFFIX = ".fastrnn.safetensors"
_DEFAULT_MODEL = "genesis" + _MODEL_SUFFIX
_EXTRAS = {  # what a command may lack, and the extra that brings it
    "matplotlib": "plot",
    "torch": "examples",
    "faker": "examples",
    "babel": "examples",
    "HersheyFonts": "examples",
    "h5py": "keras",
}


class CommandError(Exception):
    """Something that the user can mend: one line on stderr, exit code 2."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0, 1 (check or goal failed), 2 (bad input), 128 + signal."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that lacks a letter shows its number
        sys.stdout.reconfigure(errors="backslashreplace")
    parser = _parser()
    try:
        options = parser.parse_args(arguments)
        if options.command is None:
            parser.print_help()
            options.run = lambda _: 0
        if getattr(options, "threads", None) is not None:
            set_num_threads(options.threads)
        with _complain():
            code: int = options.run(options)
            if sys.stdout is not None:
                sys.stdout.flush()  # here, where a failure can still be told
        return code
    except CommandError as error:
        print(f"fastrnn {options.command}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fastrnn: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has seen enough: fastrnn sample | head
        return 141
    finally:
        _forget_unwritten()


def _forget_unwritten() -> None:
    """What could not be written to stdout is not tried again, with a traceback, at exit."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        sys.stdout = None


# ---------------------------------------------------------------------- commands
def _info(options: argparse.Namespace) -> int:
    if options.json:
        _print_json(information())
    else:
        show_config()
    return 0


def _check(options: argparse.Namespace) -> int:
    from .check import checks, run

    if not options.json:
        return run()
    results = list(checks())
    _print_json(
        [
            {
                **dict(zip(("cell", "dtype", "backend"), result, strict=False)),
                "forward": result.forward._asdict(),
                "gradients": result.gradients._asdict(),
                "passed": result.passed,
            }
            for result in results
        ]
    )
    return 0 if all(result.passed for result in results) else 1


def _bench(options: argparse.Namespace) -> int:
    from .bench import run

    return run(
        cells=options.cell,
        modes=options.mode,
        cases=options.case,
        peers=options.peer,
        seconds=options.seconds,
        json_path=options.json,
    )


def _bench_compare(options: argparse.Namespace) -> int:
    from .bench import compare

    print(compare(options.first, options.second))
    return 0


def _bench_plot(options: argparse.Namespace) -> int:
    from .bench.report import plot, read

    figures = read(options.figures)
    _check_picture(options.output)
    plot(figures, options.output)
    print(f"written to {options.output}")
    return 0


def _train(options: argparse.Namespace) -> int:
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    from .language_model import train

    trainer, path = _trainer(options)
    corpus, settings = trainer.corpus, trainer.settings
    print(
        f"{len(corpus.train):,} characters to train on, {len(corpus.held_out):,} held out, "
        f"{len(corpus.vocabulary)} different; {settings.cell.upper()}, {settings.layers} x "
        f"{settings.hidden} units, {trainer.model.size:,} parameters; {get_num_threads()} threads",
        flush=True,
    )
    start = time.monotonic()
    # The matrix products of NumPy are small here. Its BLAS threads would win nothing, and as they
    # spin for a while after each product they would take the cores from ours: 34 ms a step for 20.
    with threadpool_limits(1, user_api="blas"):
        signal = train(trainer, path, options.seconds)
    if signal is not None:
        print(
            f"stopped after step {trainer.step} of {settings.steps}; "
            f"saved to {path}; --resume goes on from here",
            file=sys.stderr,
        )
        return 128 + signal
    elapsed = time.monotonic() - start
    print(
        f"held-out text: {trainer.held_out_bits():.3f} bits a character after {trainer.step} steps "
        f"({elapsed:.0f} s); model saved to {path}"
    )
    return 0


def _trainer(options: argparse.Namespace) -> tuple[Trainer, Path]:
    """The trainer that the options ask for, new or resumed, and where to save it."""
    from .language_model import Settings, Trainer, default_text, read_corpus

    text = options.text or default_text()
    path = options.model or Path(text.stem + _MODEL_SUFFIX)
    given = {
        name: value for name, value in vars(options).items() if name in Settings.__annotations__
    }
    corpus = read_corpus(text)
    if not options.resume:
        trainer = Trainer(corpus, Settings(**given))
        _check_place(path)
        return trainer, path
    trainer = Trainer.resume(path, corpus, given.pop("steps", None))
    for name, value in given.items():
        if value != getattr(trainer.settings, name):
            raise CommandError(
                f"--{name.replace('_', '-')} {value}: {path} was trained with "
                f"{getattr(trainer.settings, name)}; of its settings only --steps can change"
            )
    _check_place(path)
    return trainer, path


def _diagnose(options: argparse.Namespace) -> int:
    from .diagnose import diagnose, fresh_models, plot, table
    from .language_model import default_text, load_model, read_corpus
    from .language_model.corpus import indices_of

    if options.plot:
        _check_picture(options.plot)
    path = options.text or default_text()
    corpus = read_corpus(path)
    if options.model:
        model = load_model(options.model)
        models = {options.model.name.removesuffix(_MODEL_SUFFIX): model}
    else:
        sizes = {"hidden": options.hidden, "steps": options.train}
        models = fresh_models(corpus, sizes)
    reports = []
    for name, model in models.items():
        text = indices_of(path, model.vocabulary)
        reports += diagnose(name, model, text, options.steps)
    if options.json:
        _print_json([report._asdict() | {"norms": report.norms.tolist()} for report in reports])
    else:
        print(table(reports))
    if options.plot:
        plot(reports, options.plot)
        print(f"written to {options.plot}", file=sys.stderr if options.json else sys.stdout)
    return 0


def _example(options: argparse.Namespace) -> int:
    from .examples import SUMMARIES, run

    if options.name is None:
        width = max(map(len, SUMMARIES))
        print("\n".join(f"{name:{width}}  {text}" for name, text in SUMMARIES.items()))
        return 0
    picture = options.picture or Path(f"{options.name}.svg")
    _check_picture(picture)
    with redirect_stdout(sys.stderr if options.json else sys.stdout):
        goals = run(options.name, options.quick, picture)
    if options.json:
        _print_json([goal._asdict() | {"met": goal.met} for goal in goals])
    else:
        print(*goals, f"picture: {picture}", sep="\n")
    return 0 if all(goal.met for goal in goals) else 1


def _sample(options: argparse.Namespace) -> int:
    from .language_model import generate, load_model

    model = load_model(options.model)
    characters = generate(
        model,
        length=options.length,
        prompt=options.prompt,
        temperature=options.temperature,
        seed=options.seed,
    )
    print(options.prompt, end="")
    for character in characters:
        print(character, end="", flush=True)
    print()
    return 0


def _convert(options: argparse.Namespace) -> int:
    from .layouts import convert, files

    arrays = convert(
        files.load(options.input, options.prefix),
        options.src,
        options.dst,
        options.cell,
        reset_after=not options.reset_before,
        merge_bias=options.merge_bias,
        strict=not options.lossy,
    )
    _check_place(options.output)
    files.save(options.output, arrays)
    for name, array in arrays.items():
        print(f"{name}  {array.dtype}  {tuple(array.shape)}")
    return 0


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1))


def _check_place(path: Path) -> None:
    """Before any work: can a file be written there?"""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise CommandError(f"{path}: no such folder to save to")
    if path.is_dir():
        raise CommandError(f"{path}: is a folder, not a file")
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise CommandError(f"{path}: cannot write to its folder: {error.strerror}") from error


def _check_picture(path: Path) -> None:
    """Before any work: can a picture be saved there, and in the format of its suffix?"""
    _check_place(path)
    known = import_module("matplotlib.backend_bases").FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise CommandError(f"{path}: not a picture that can be drawn; take .svg, .png or .pdf")


@contextmanager
def _complain() -> Iterator[None]:
    """Turn an error about a file, a value or a package of the user's into one line."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CommandError(
            f"{error.filename}: {error.strerror}" if error.filename else str(error)
        ) from error
    except ValueError as error:
        raise CommandError(" ".join(str(error).split())) from error
    except ModuleNotFoundError as error:
        name = str(error.name).split(".")[0]
        extra = _EXTRAS.get(name)
        if extra is None:
            raise
        raise CommandError(f'{name} is not installed; pip install "fastrnn[{extra}]"') from error


# ---------------------------------------------------------------------- arguments
def _parser() -> argparse.ArgumentParser:
    from .examples import SUMMARIES

    parser = argparse.ArgumentParser(
        prog="fastrnn",
        description="Fused RNN, LSTM and GRU layers: forward and back-propagation through time.",
        epilog="fastrnn COMMAND --help shows a command's options and an example of its use.",
    )
    version = f"fastrnn {installed('fastrnn')}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def command(
        name: str,
        run: Callable[[argparse.Namespace], int],
        summary: str,
        more: str = "",
        *,
        example: str,
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=summary,
            description=f"{summary}. {more}".strip(),
            epilog=f"example: fastrnn {example}",
        )
        added.set_defaults(run=run)
        return added

    def as_json(added: argparse.ArgumentParser) -> None:
        added.add_argument("--json", action="store_true", help="print JSON, for a program to read")

    def threads(added: argparse.ArgumentParser) -> None:
        added.add_argument(
            "--threads",
            type=_number(int, 1),
            metavar="N",
            help="threads to compute with (default: FASTRNN_NUM_THREADS, or one per core)",
        )

    info = command(
        "info",
        _info,
        "Show versions, backends, threads, and what is installed",
        example="info --json",
    )
    as_json(info)

    check = command(
        "check",
        _check,
        "Test this installation against the float64 reference",
        "Every cell, dtype and backend, forward and gradients. Exit code 1 if an error is large.",
        example="check --threads 1",
    )
    as_json(check)
    threads(check)

    bench = command(
        "bench",
        _bench,
        "Time this machine: fastrnn, its peers, what the hardware can do",
        "Peers are PyTorch, ONNX Runtime, OpenVINO and JAX, those that are installed. Results are "
        "compared first, and the rounds are interleaved: all see the same machine. Ctrl-C keeps "
        "what was measured.",
        example="bench --cell lstm --mode infer --case 1,100,64,64,1 --json figures.json",
    )
    bench.add_argument("--cell", nargs="+", choices=("lstm", "gru", "rnn"), help="only these cells")
    bench.add_argument("--mode", nargs="+", choices=("infer", "train"), help="only these modes")
    bench.add_argument(
        "--case",
        nargs="+",
        metavar="CASE",
        help="only these shapes: B,T,I,H,L as in 1,100,64,64,1, then +lengths, +bidirectional, "
        "+float64, +step; or a suite: shapes, more (default: all, which is both)",
    )
    bench.add_argument(
        "--peer",
        nargs="*",
        choices=("torch", "onnxruntime", "openvino", "jax"),
        help="only these peers",
    )
    bench.add_argument(
        "--seconds",
        type=_number(float, 0, above=True),
        default=1.0,
        help="time for one line of the table (default: %(default)s)",
    )
    bench.add_argument(
        "--json", type=Path, metavar="PATH", help="also write the figures to this file or folder"
    )
    threads(bench)
    actions = bench.add_subparsers(metavar="ACTION", help="in place of a run, on files of --json:")
    comparison = actions.add_parser("compare", help="two runs beside each other")
    comparison.add_argument("first", type=Path, metavar="A")
    comparison.add_argument("second", type=Path, metavar="B")
    comparison.set_defaults(run=_bench_compare)
    plot = actions.add_parser("plot", help="a run as a picture")
    plot.add_argument("figures", type=Path, metavar="FILE")
    plot.add_argument(
        "output", type=Path, metavar="PICTURE", help="its suffix says which format: .svg, .png"
    )
    plot.set_defaults(run=_bench_plot)

    train = command(
        "train",
        _train,
        "Train a character language model on a text",
        "The last tenth of the text is held out and measured at the end. Ctrl-C saves and exits; "
        "--resume goes on with the same numbers as if there had been no break.",
        example="train novel.txt --steps 2000 --cell gru",
    )
    train.add_argument(
        "text",
        nargs="?",
        type=Path,
        metavar="TEXT",
        help="a UTF-8 text file (default: the Book of Genesis, King James Version)",
    )
    train.add_argument(
        "--model",
        type=Path,
        metavar="FILE",
        help=f"where to save (default: the text's name with {_MODEL_SUFFIX}, in this folder)",
    )
    train.add_argument("--resume", action="store_true", help="go on with the saved model")
    train.add_argument(
        "--seconds", type=_number(float, 0, above=True), help="stop after so many seconds"
    )
    threads(train)
    _add_settings(train)

    diagnose = command(
        "diagnose",
        _diagnose,
        "Show how far back a character model learns",
        "The norm of the loss's gradient with respect to h against the distance in steps, and how "
        "many gates are saturated: of a model, or of an RNN, a GRU and an LSTM on the same text.",
        example="diagnose --train 200 --plot norms.svg",
    )
    diagnose.add_argument(
        "text",
        nargs="?",
        type=Path,
        metavar="TEXT",
        help="a UTF-8 text file (default: the Book of Genesis, King James Version)",
    )
    diagnose.add_argument(
        "--model", type=Path, metavar="FILE", help="a file that fastrnn train saved"
    )
    for name, default, text in (
        ("--steps", 100, "characters before the one that the loss is of"),
        ("--hidden", 128, "without --model: units"),
        ("--train", 0, "without --model: updates before the measurement"),
    ):
        diagnose.add_argument(
            name,
            type=_number(int, 0 if name == "--train" else 1),
            default=default,
            metavar="N",
            help=f"{text} (default: %(default)s)",
        )
    diagnose.add_argument(
        "--plot", type=Path, metavar="PICTURE", help="its suffix says which format: .svg, .png"
    )
    threads(diagnose)

    as_json(diagnose)

    sample = command(
        "sample",
        _sample,
        "Print text drawn from a trained model",
        example="sample --prompt 'And God said' --temperature 0.5",
    )
    sample.add_argument(
        "model",
        nargs="?",
        type=Path,
        default=Path(_DEFAULT_MODEL),
        metavar="MODEL",
        help="a file that fastrnn train saved (default: %(default)s)",
    )
    sample.add_argument(
        "--length",
        type=_number(int, 0),
        default=500,
        metavar="N",
        help="characters to draw (default: %(default)s)",
    )
    sample.add_argument(
        "--temperature",
        type=_number(float, 0),
        default=0.7,
        metavar="X",
        help="below 1 likelier text, above 1 wilder, 0 always the likeliest character "
        "(default: %(default)s)",
    )
    sample.add_argument("--prompt", default="", metavar="TEXT", help="how the text begins")
    sample.add_argument("--seed", type=_number(int, 0), metavar="N", help="for the same text again")
    threads(sample)

    example = command(
        "example",
        _example,
        "Run a program of the lecture; without a name, list them",
        "Each trains in minutes, saves a picture and says which goals it reached; exit code 1 if "
        "it missed one.",
        example="example ner --picture names.png",
    )
    example.add_argument("name", nargs="?", choices=SUMMARIES, metavar="NAME", help="which one")
    example.add_argument("--quick", action="store_true", help="seconds, with easier goals")
    example.add_argument(
        "--picture", type=Path, metavar="FILE", help="where to save it (default: NAME.svg)"
    )
    threads(example)
    as_json(example)
    _add_convert(command)
    return parser


def _add_convert(command: Callable[..., argparse.ArgumentParser]) -> None:
    from .layouts import LAYOUTS

    added = command(
        "convert",
        _convert,
        "Convert a layer's weights from one framework's layout to another",
        f"Layouts: {', '.join(LAYOUTS)}. Files end in .npz, .safetensors or .h5.",
        example="convert keras.h5 torch.safetensors --from keras --to torch --cell lstm",
    )
    added.add_argument("input", type=Path, metavar="IN")
    added.add_argument("output", type=Path, metavar="OUT")
    for option, name in (("--from", "src"), ("--to", "dst")):
        added.add_argument(option, dest=name, required=True, choices=LAYOUTS, metavar="LAYOUT")
    added.add_argument("--cell", required=True, choices=("lstm", "gru", "rnn"))
    added.add_argument(
        "--reset-before", action="store_true", help="a GRU that resets before the product"
    )
    added.add_argument(
        "--merge-bias",
        choices=("ih", "hh", "split"),
        default="ih",
        help="where one bias goes in place of two (default: %(default)s)",
    )
    added.add_argument(
        "--prefix",
        default="",
        metavar="NAME",
        help="take only the arrays whose names begin so, without it: one layer of a model",
    )
    added.add_argument(
        "--lossy", action="store_true", help="drop what the other layout cannot hold"
    )


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """Every field of Settings as an option; one that is not given is not in the namespace."""
    from .language_model import Settings

    group = parser.add_argument_group("settings of the model and its training")
    for field in dataclasses.fields(Settings):
        group.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=type(field.default),
            default=argparse.SUPPRESS,
            metavar="CELL" if field.name == "cell" else "N",
            help=f"{field.metadata['help']} (default: {field.default})",
        )


def _number(
    kind: type[int] | type[float], least: float, above: bool = False
) -> Callable[[str], float]:
    """An argparse type: a finite number from `least` on, or above it."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not (value > least if above else value >= least) or value == math.inf:
            raise argparse.ArgumentTypeError(f"must be {'above' if above else 'at least'} {least}")
        return value

    return parse
