"""The character language model: torch's losses, exact resumption, the held-out tenth."""

from __future__ import annotations

import itertools
import math
import multiprocessing
import os
import signal

import numpy as np
import pytest

from fastrnn.language_model import (
    CharacterModel,
    Settings,
    Trainer,
    default_text,
    generate,
    load_model,
    read_corpus,
)
from fastrnn.language_model.corpus import Batches, corpus_of

TEXT = default_text().read_text()
SMALL = Settings(hidden=32, embedding=16, batch=8, chunk=16, steps=200, learning_rate=1e-2)


def settings(**changes):
    return Settings(**{**SMALL.__dict__, **changes})


def small_corpus():
    return corpus_of(TEXT[:20_000])


# ---------------------------------------------------------------------- text
def test_the_last_tenth_is_held_out_and_the_text_can_be_put_together_again():
    corpus = corpus_of(TEXT)
    assert len(corpus.held_out) == math.ceil(len(TEXT) / 10)
    indices = np.concatenate([corpus.train, corpus.held_out])
    assert "".join(corpus.vocabulary[i] for i in indices) == TEXT
    assert list(corpus.vocabulary) == sorted(set(TEXT))


def test_characters_beyond_ascii_are_one_each():
    text = "Ἐν ἀρχῇ ἦν ὁ λόγος 😀 日本語\n"
    corpus = corpus_of(text)
    assert "".join(corpus.vocabulary[i] for i in (*corpus.train, *corpus.held_out)) == text


def test_a_byte_order_mark_and_windows_line_ends_are_no_characters(tmp_path):
    path = tmp_path / "windows.txt"
    path.write_bytes(b"\xef\xbb\xbfab\r\ncd\r\n")
    assert read_corpus(path).vocabulary == "\nabcd"


def test_batches_read_each_row_on_from_where_it_was():
    train = np.arange(1000)
    batches = Batches(train, 3, 10)
    assert batches.steps == 33
    chunks = [batches[step] for step in range(batches.steps)]
    inputs = np.concatenate([chunk[0] for chunk in chunks])
    np.testing.assert_array_equal(inputs[:, 1], np.arange(333, 333 + 330))
    for chunk, targets in chunks:
        np.testing.assert_array_equal(targets, chunk + 1)


def test_a_text_that_just_makes_a_batch_is_enough_and_one_character_less_is_not():
    assert Batches(np.arange(8 * 16 + 1), 8, 16).steps == 1
    with pytest.raises(
        ValueError, match=r"too short: a batch of 8 rows of 16 .* takes 129 .* are 128"
    ):
        Batches(np.arange(8 * 16), 8, 16)


# ---------------------------------------------------------------------- model and training
def torch_losses(torch, trainer, steps):
    """The same model and training in torch, from the trainer's initial parameters."""
    s, corpus = trainer.settings, trainer.corpus
    vocabulary = len(corpus.vocabulary)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(vocabulary, s.embedding)
            self.rnn = getattr(torch.nn, s.cell.upper())(s.embedding, s.hidden, s.layers)
            self.output = torch.nn.Linear(s.hidden, vocabulary)

        def forward(self, x, state):
            y, state = self.rnn(self.embedding(x), state)
            return self.output(y), state

    model = Model()
    model.load_state_dict({k: torch.tensor(v) for k, v in trainer.model.parameters.items()})
    optimiser = torch.optim.Adam(model.parameters(), lr=s.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, s.steps)
    train = torch.tensor(corpus.train)
    length = (len(train) - 1) // s.batch
    inputs = train[: s.batch * length].view(s.batch, length).T
    targets = train[1 : s.batch * length + 1].view(s.batch, length).T
    place, state, losses = 0, None, []
    for _ in range(steps):
        if place + s.chunk > length:
            place, state = 0, None
        logits, state = model(inputs[place : place + s.chunk], state)
        state = tuple(p.detach() for p in state) if isinstance(state, tuple) else state.detach()
        expected = targets[place : place + s.chunk]
        loss = torch.nn.functional.cross_entropy(
            logits.reshape(-1, vocabulary), expected.reshape(-1)
        )
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), s.clip)
        optimiser.step()
        schedule.step()
        place += s.chunk
        losses.append(loss.item() / math.log(2))
    return losses


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("layers", [1, 2])
def test_two_hundred_losses_equal_torch(cell, layers):
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)  # as small as this is, more threads only wait for each other
    trainer = Trainer(small_corpus(), settings(cell=cell, layers=layers))
    theirs = torch_losses(torch, trainer, 200)
    ours = [trainer.advance() for _ in range(200)]
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    assert ours[-1] < 0.7 * ours[0]


def test_the_loss_gradients_are_those_of_finite_differences():
    model = CharacterModel("abcd", hidden=4, embedding=3, seed=1)
    generator = np.random.default_rng(0)
    inputs, targets = generator.integers(0, 4, (2, 5, 3))
    _, _, gradients = model.loss_and_gradients(inputs, targets, None)
    before = {name: value.copy() for name, value in model.parameters.items()}
    assert set(gradients) == set(before)
    for name, gradient in gradients.items():
        direction = gradient / np.linalg.norm(gradient)
        sides = []
        for change in (1e-2, -1e-2):
            model.update(before | {name: before[name] + np.float32(change) * direction})
            sides.append(model.loss_and_gradients(inputs, targets, None)[0])
        slope = (sides[0] - sides[1]) / 2e-2
        assert slope == pytest.approx(float(np.linalg.norm(gradient)), rel=1e-3)


def test_held_out_bits_are_the_mean_of_each_character_given_all_before_it():
    trainer = Trainer(small_corpus(), SMALL)
    for _ in range(20):
        trainer.advance()
    text = trainer.corpus.held_out
    assert len(text) > 1024  # several chunks, so that the state must be carried
    state, total = None, 0.0
    for index, following in itertools.pairwise(text):
        logits, state = trainer.model.step(int(index), state)
        logits = logits.astype(np.float64)
        total += np.log(np.exp(logits).sum()) - logits[following]
    expected = total / (len(text) - 1) / math.log(2)
    assert trainer.held_out_bits() == pytest.approx(expected, rel=1e-5)


def test_the_same_seed_gives_the_same_run_and_another_seed_another():
    runs = []
    for seed in (0, 0, 1):
        trainer = Trainer(small_corpus(), settings(seed=seed))
        runs.append([trainer.advance() for _ in range(10)])
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_resumed_run_has_the_numbers_of_an_uninterrupted_one(cell, tmp_path):
    changes = {"cell": cell, "layers": 2, "dropout": 0.3}
    whole = Trainer(small_corpus(), settings(**changes))
    expected = [whole.advance() for _ in range(40)]
    part = Trainer(small_corpus(), settings(**changes))
    losses = []
    for stop in (1, 17, 40):
        losses += [part.advance() for _ in range(stop - part.step)]
        part.save(tmp_path / "model")
        part = Trainer.resume(tmp_path / "model", small_corpus())
    assert losses == expected
    assert part.held_out_bits() == whole.held_out_bits()


def test_resuming_before_the_first_step_works(tmp_path):
    trainer = Trainer(small_corpus(), SMALL)
    trainer.save(tmp_path / "model")
    assert Trainer.resume(tmp_path / "model", small_corpus()).advance() == trainer.advance()


def test_resuming_on_another_text_raises(tmp_path):
    Trainer(small_corpus(), SMALL).save(tmp_path / "model")
    with pytest.raises(ValueError, match="was trained on another text"):
        Trainer.resume(tmp_path / "model", corpus_of(TEXT[:19_000]))


def test_a_saved_model_loads_into_torch(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    trainer = Trainer(small_corpus(), SMALL)
    trainer.advance()
    trainer.save(tmp_path / "model")
    lstm = torch.nn.LSTM(16, 32)
    saved = load_file(tmp_path / "model")
    lstm.load_state_dict(
        {name[4:]: value for name, value in saved.items() if name.startswith("rnn.")}
    )


# ---------------------------------------------------------------------- crashes
def _save_and_die(path, moment):
    """In a child process: save, and die by SIGKILL at the given moment."""
    import fastrnn.atomic

    trainer = Trainer(small_corpus(), SMALL)
    trainer.save(path)
    for _ in range(3):
        trainer.advance()

    def die(*arguments):
        os.kill(os.getpid(), signal.SIGKILL)

    class Torn:
        """A file that the process does not live to write whole."""

        def __init__(self, *arguments):
            self._file = open(*arguments)  # noqa: SIM115

        def __enter__(self):
            return self

        def __exit__(self, *arguments):
            self._file.close()

        def write(self, content):
            self._file.write(content[: len(content) // 2])
            self._file.flush()
            die()

    if moment == "writing":
        fastrnn.atomic.open = Torn
    elif moment == "before the new name":
        os.replace = die
    else:
        fastrnn.atomic._sync_folder = die
    trainer.save(path)


@pytest.mark.parametrize(
    ("moment", "step"), [("writing", 0), ("before the new name", 0), ("after the new name", 3)]
)
def test_a_process_killed_while_saving_leaves_a_whole_file(moment, step, tmp_path):
    path = tmp_path / "model"
    child = multiprocessing.get_context("spawn").Process(target=_save_and_die, args=(path, moment))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    trainer = Trainer.resume(path, small_corpus())
    assert trainer.step == step
    trainer.advance()
    trainer.save(path)  # over what the dead process left
    assert Trainer.resume(path, small_corpus()).step == step + 1
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_a_failed_save_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    trainer = Trainer(small_corpus(), SMALL)
    trainer.save(tmp_path / "model")
    trainer.advance()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        trainer.save(tmp_path / "model")
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
    assert Trainer.resume(tmp_path / "model", small_corpus()).step == 0


# ---------------------------------------------------------------------- sampling
@pytest.fixture(scope="module")
def model():
    trainer = Trainer(small_corpus(), SMALL)
    for _ in range(30):
        trainer.advance()
    return trainer.model


def sample(model, **options):
    return "".join(generate(model, **{"length": 50, "seed": 1} | options))


def test_samples_have_the_length_and_the_vocabulary_and_follow_the_seed(model):
    text = sample(model)
    assert len(text) == 50
    assert set(text) <= set(model.vocabulary)
    assert text == sample(model)
    assert text != sample(model, seed=2)
    assert sample(model, length=0) == ""


def test_temperature_zero_takes_the_likeliest_character(model):
    text = sample(model, temperature=0, prompt="And ")
    assert text == sample(model, temperature=0, prompt="And ", seed=2)
    assert text == sample(model, temperature=1e-9, prompt="And ")
    state = None
    for character in "And ":
        logits, state = model.step(model.vocabulary.index(character), state)
    assert text[0] == model.vocabulary[int(logits.argmax())]


def test_samples_are_drawn_with_the_model_probabilities(model):
    logits, _ = model.step(model.vocabulary.index("\n"), None)
    expected = np.exp(logits.astype(np.float64) / 1.3)
    expected /= expected.sum()
    draws = 2000
    counts = np.zeros(len(model.vocabulary))
    for seed in range(draws):
        counts[model.vocabulary.index(sample(model, length=1, seed=seed, temperature=1.3))] += 1
    assert np.all(np.abs(counts - draws * expected) <= 5 * np.sqrt(draws * expected) + 1)


def test_a_prompt_with_an_unknown_character_is_named(model):
    with pytest.raises(ValueError, match=r"had not: '1' '😀'"):
        generate(model, length=1, prompt="a😀1")


def test_a_model_without_line_ends_samples_too():
    assert sample(CharacterModel("ab", hidden=4, embedding=3), length=5).strip("ab") == ""


# ---------------------------------------------------------------------- files and settings
def test_files_that_are_no_models_say_so(tmp_path):
    from safetensors.numpy import save_file

    import fastrnn

    Trainer(small_corpus(), SMALL).save(tmp_path / "model")
    content = (tmp_path / "model").read_bytes()
    (tmp_path / "torn").write_bytes(content[:-1])
    (tmp_path / "text").write_text(TEXT)
    (tmp_path / "empty").write_bytes(b"")
    for name in ("torn", "text", "empty"):
        with pytest.raises(ValueError, match=f"{name} is damaged or not a model"):
            load_model(tmp_path / name)
    save_file({"a": np.zeros(3)}, tmp_path / "other")
    fastrnn.LSTM(3, 4).save(tmp_path / "layer")
    for name in ("other", "layer"):
        with pytest.raises(ValueError, match=f"{name} is not a model of fastrnn train"):
            load_model(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        load_model(tmp_path / "missing")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": 0}, "hidden must be at least 1, got 0"),
        ({"steps": -1}, "steps must be at least 1, got -1"),
        ({"cell": "mgu"}, "cell must be lstm, gru or rnn, got mgu"),
        ({"dropout": 1.1, "layers": 2}, r"dropout must be in \[0, 1\], got 1.1"),
        ({"dropout": 0.1}, "dropout acts between layers: it needs at least 2 of them"),
        ({"learning_rate": math.nan}, "learning_rate must be above 0, got nan"),
        ({"clip": 0.0}, "clip must be above 0, got 0.0"),
        ({"seed": -1}, "seed must be in"),
    ],
)
def test_settings_out_of_range_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        settings(**change)
