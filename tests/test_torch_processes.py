"""fastrnn.torch among threads and processes: torch's thread count, DataLoader workers, several
ranks.
"""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import ROOT
from test_torch_modules import CLASSES, results_and_gradients
from torch.utils.data import DataLoader, Dataset

import fastrnn.torch
from fastrnn import _core

T, B, I, H = 9, 4, 5, 16


@pytest.fixture
def two_threads() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_the_number_of_threads_is_that_of_torch(
    monkeypatch: pytest.MonkeyPatch, two_threads: None
) -> None:
    used = []
    for name in ("forward", "backward", "stack", "step"):
        original = getattr(_core.Plan, name)
        monkeypatch.setattr(
            _core.Plan,
            name,
            lambda plan, threads, *a, original=original: (
                used.append(threads),
                original(plan, threads, *a),
            )[1],
        )
    module, cell = fastrnn.torch.LSTM(I, H), fastrnn.torch.GRUCell(I, H)
    for threads in (2, 1):
        torch.set_num_threads(threads)
        module(torch.randn(T, B, I))[0].sum().backward()
        with torch.no_grad():
            module(torch.randn(T, B, I)), cell(torch.randn(B, I))
        assert used == [threads] * 4
        used.clear()


@pytest.mark.parametrize("name", CLASSES)
def test_bits_do_not_depend_on_the_number_of_threads(name: str, two_threads: None) -> None:
    module = getattr(fastrnn.torch, name)(I, H, 2, bidirectional=True)
    x = torch.randn(T, B, I, requires_grad=True)
    with_two = results_and_gradients(module, (x,))
    torch.set_num_threads(1)
    for one, two in zip(results_and_gradients(module, (x,)), with_two, strict=True):
        assert torch.equal(one, two)


def test_one_module_may_run_in_several_threads_at_once(two_threads: None) -> None:
    module = fastrnn.torch.GRU(I, H, 2, bidirectional=True)
    inputs = [torch.randn(T, B, I) for _ in range(24)]

    def run(x: torch.Tensor) -> list[torch.Tensor]:
        y, _ = module(x)
        return [y, *torch.autograd.grad(y.sum(), list(module.parameters()))]

    expected = [run(x) for x in inputs]
    with ThreadPoolExecutor(6) as pool:
        for got, want in zip(pool.map(run, inputs), expected, strict=True):
            assert all(torch.equal(g, w) for g, w in zip(got, want, strict=True))


class Features(Dataset[torch.Tensor]):
    """Data whose samples pass through a network in the worker."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        with torch.inference_mode():
            y, _ = self.module(torch.full((T, B, I), float(index)))
        return torch.tensor(y.tolist())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:os.fork.*JAX:RuntimeWarning")  # where another test imported it
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_data_loader_workers_compute_what_the_parent_computes(
    start: str, two_threads: None
) -> None:
    module = fastrnn.torch.LSTM(I, H)
    data = Features(module)
    expected = [
        data[i] for i in range(len(data))
    ]  # the parent's own threads have run before the fork
    loader = DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context=start)
    for got, want in zip(loader, expected, strict=True):
        assert torch.equal(got, want)
    assert not multiprocessing.active_children()


def test_two_ranks_train_the_weights_that_one_process_trains(tmp_path: Path) -> None:
    """The example itself: DistributedDataParallel over gloo, in float64, to 1e-12."""
    script = ROOT / "examples" / "torch_distributed.py"
    done = subprocess.run(
        [sys.executable, script, "--ranks", "2", "--steps", "5"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if "largest difference" in line)
    assert float(line.split()[-1]) <= 1e-12


def test_the_language_model_of_the_examples_has_the_losses_of_torch() -> None:
    script = ROOT / "examples" / "torch_language_model.py"
    done = subprocess.run(
        [sys.executable, script, "--steps", "20", "--size", "48"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if "largest difference" in line)
    assert float(line.split()[-1]) <= 1e-4
