"""The command `fastrnn`: info, check, bench, train, sample, diagnose, convert. Each part is
imported when it is asked for.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from . import get_num_threads, set_num_threads
from .info import installed, show_config

if TYPE_CHECKING:
    from .language_model import Trainer

_MODEL_SUFFIX = ".fastrnn.safetensors"
_DEFAULT_MODEL = "genesis" + _MODEL_SUFFIX


class CommandError(Exception):
    """Something that the user can mend: one line on stderr, exit code 2."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0, 1 (a check failed), 2 (bad input), 128 + signal."""
    options = _parser().parse_args(arguments)
    try:
        if getattr(options, "threads", None) is not None:
            set_num_threads(options.threads)
        code: int = options.run(options)
        return code
    except CommandError as error:
        print(f"fastrnn {options.command}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except (
        BrokenPipeError
    ):  # whoever read our output has seen enough, as in `fastrnn sample | head`
        sys.stdout = None
        return 141


# ---------------------------------------------------------------------- commands
def _info(options: argparse.Namespace) -> int:
    show_config()
    return 0


def _check(options: argparse.Namespace) -> int:
    from .check import run

    return run()


def _bench(options: argparse.Namespace) -> int:
    from .bench import run

    with _complain():
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

    with _complain():
        print(compare(options.first, options.second))
    return 0


def _bench_plot(options: argparse.Namespace) -> int:
    from .bench.report import plot, read

    with _complain():
        try:
            plot(read(options.figures), options.output)
        except ImportError as error:
            raise CommandError(f'{error}; pip install "fastrnn[plot]"') from error
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
    with _complain(), threadpool_limits(1, user_api="blas"):
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
    with _complain():
        corpus = read_corpus(text)
        if not options.resume:
            if not path.absolute().parent.is_dir():
                raise CommandError(f"{path}: no such folder to save to")
            return Trainer(corpus, Settings(**given)), path
        trainer = Trainer.resume(path, corpus, given.pop("steps", None))
    for name, value in given.items():
        if value != getattr(trainer.settings, name):
            raise CommandError(
                f"--{name.replace('_', '-')} {value}: {path} was trained with "
                f"{getattr(trainer.settings, name)}; of its settings only --steps can change"
            )
    return trainer, path


def _diagnose(options: argparse.Namespace) -> int:
    from .diagnose import diagnose, fresh_models, plot, table
    from .language_model import default_text, load_model, read_corpus
    from .language_model.corpus import indices_of

    with _complain():
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
        print(table(reports))
        if options.plot:
            try:
                plot(reports, options.plot)
            except ImportError as error:
                raise CommandError(f'{error}; pip install "fastrnn[plot]"') from error
            print(f"written to {options.plot}")
    return 0


def _sample(options: argparse.Namespace) -> int:
    from .language_model import generate, load_model

    with _complain():
        model = load_model(options.model)
        characters = generate(
            model,
            length=options.length,
            prompt=options.prompt,
            temperature=options.temperature,
            seed=options.seed,
        )
    sys.stdout.write(options.prompt)
    for character in characters:
        sys.stdout.write(character)
        sys.stdout.flush()
    sys.stdout.write("\n")
    sys.stdout.flush()
    return 0


def _convert(options: argparse.Namespace) -> int:
    from .layouts import convert, files

    with _complain():
        arrays = convert(
            files.load(options.input, options.prefix),
            options.src,
            options.dst,
            options.cell,
            reset_after=not options.reset_before,
            merge_bias=options.merge_bias,
            strict=not options.lossy,
        )
        files.save(options.output, arrays)
    for name, array in arrays.items():
        print(f"{name}  {array.dtype}  {tuple(array.shape)}")
    return 0


@contextmanager
def _complain() -> Iterator[None]:
    """Turn an error about a file or a value that the user gave into one line."""
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


# ---------------------------------------------------------------------- arguments
def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastrnn",
        description="Fused RNN, LSTM and GRU layers: forward and back-propagation through time.",
    )
    version = f"fastrnn {installed('fastrnn')}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(
        name: str, run: Callable[[argparse.Namespace], int], summary: str, more: str = ""
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=summary, description=f"{summary}. {more}".strip())
        added.set_defaults(run=run)
        return added

    def threads(added: argparse.ArgumentParser) -> None:
        added.add_argument(
            "--threads",
            type=_number(int, 1),
            metavar="N",
            help="threads to compute with (default: FASTRNN_NUM_THREADS, or one per core)",
        )

    command("info", _info, "Show versions, backends, threads and the frameworks that are installed")

    check = command(
        "check",
        _check,
        "Test this installation against the float64 reference",
        "Every cell, dtype and backend, forward and gradients. Exit code 1 if an error is large.",
    )
    threads(check)

    bench = command(
        "bench",
        _bench,
        "Time this machine: fastrnn, its peers, and what the hardware can do",
        "Peers are PyTorch, ONNX Runtime, OpenVINO and JAX, those that are installed. Results are "
        "compared first, and the rounds are interleaved: all see the same machine.",
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

    sample = command("sample", _sample, "Print text drawn from a trained model")
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
    _add_convert(command)
    return parser


def _add_convert(command: Callable[..., argparse.ArgumentParser]) -> None:
    from .layouts import LAYOUTS

    added = command(
        "convert",
        _convert,
        "Convert the weights of a recurrent layer from one framework's layout to another's",
        f"Layouts: {', '.join(LAYOUTS)}. Files end in .npz, .safetensors or .h5.",
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
