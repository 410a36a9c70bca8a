"""What a module is beside its forward: state_dict, pickle, copies, the meta device, changed and
tied weights.
"""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_torch_modules import CELLS, CLASSES, pair, tensors
from torch.nn.utils import parametrizations, parametrize, prune

import fastrnn.torch

ALL = (*CLASSES, *CELLS)
I, H = 4, 6


LARGE = 400  # a layer of so many units has more weights than are compared whole


def make(name: str, size: int = H) -> torch.nn.Module:
    options = {} if name in CELLS else {"num_layers": 2, "bidirectional": True}
    module: torch.nn.Module = getattr(fastrnn.torch, name)(I, size, **options)
    return module


def sample(name: str) -> torch.Tensor:
    shape = (3, I) if name in CELLS else (7, 3, I)
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


def output(module: torch.nn.Module, name: str) -> torch.Tensor:
    return tensors(module(sample(name)))[0]


@pytest.mark.parametrize("name", ALL)
def test_state_dict_goes_both_ways(name: str) -> None:
    ours, theirs = (
        make(name),
        getattr(torch.nn, name)(
            I, H, **({} if name in CELLS else {"num_layers": 2, "bidirectional": True})
        ),
    )
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(output(theirs, name), output(ours, name))
    again = make(name)
    again.load_state_dict(theirs.state_dict())
    assert torch.equal(output(again, name), output(ours, name))


@pytest.mark.parametrize("name", ALL)
def test_copies_and_pickles_compute_the_same(name: str) -> None:
    module = make(name)
    expected = output(module, name)
    saved = io.BytesIO()
    torch.save(module, saved)
    for weights_only in (True, False):
        saved.seek(0)
        loaded = torch.load(saved, weights_only=weights_only)
        assert type(loaded) is type(module)
        assert torch.equal(output(loaded, name), expected)
    for other in (copy.deepcopy(module), copy.copy(module), pickle.loads(pickle.dumps(module))):
        assert type(other) is type(module)
        assert torch.equal(output(other, name), expected)
    with torch.no_grad():
        output(module, name), output(module, name)
    assert all(cache.filled for cache in caches_of(module))
    copied = copy.deepcopy(module)
    assert not caches_of(copied)
    assert not caches_of(pickle.loads(pickle.dumps(module)))
    with torch.no_grad():
        next(copied.parameters()).zero_()
    assert torch.equal(output(module, name), expected)
    assert not torch.equal(output(copied, name), expected)


def test_the_variant_of_the_gru_is_kept() -> None:
    for kind, name in ((fastrnn.torch.GRU, "GRU"), (fastrnn.torch.GRUCell, "GRUCell")):
        module = kind(I, H, reset_after=False)
        for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            assert not other.reset_after
            assert torch.equal(output(other, name), output(module, name))


@pytest.mark.parametrize("name", ALL)
def test_meta_device_and_to_empty(name: str) -> None:
    module = make(name)
    with torch.device("meta"):
        empty = make(name)
    shapes = [t.shape for t in tensors(empty(sample(name).to("meta")))]
    assert shapes == [t.shape for t in tensors(module(sample(name)))]
    assert all(t.is_meta for t in tensors(empty(sample(name).to("meta"))))
    filled = empty.to_empty(device="cpu")
    filled.load_state_dict(module.state_dict())
    assert torch.equal(output(filled, name), output(module, name))


def changes(name: str, size: int = H) -> dict[str, Callable[[torch.nn.Module], object]]:
    """Ways in which weights change under a module that has run before."""
    other = make(name, size)

    def optimizer_step(module: torch.nn.Module) -> None:
        with torch.enable_grad():
            output(module, name).sum().backward()
        torch.optim.Adam(module.parameters(), lr=0.1).step()

    def each(change: Callable[[torch.nn.Parameter], object]) -> Callable[[torch.nn.Module], object]:
        return lambda module: [change(p) for p in module.parameters()]

    def through_numpy(p: torch.nn.Parameter) -> None:
        p.detach().numpy()[...] = 0.5

    def data_swap(p: torch.nn.Parameter) -> None:
        p.data = torch.full_like(p, 0.25)

    def new_parameters(module: torch.nn.Module) -> None:
        for key, p in list(module.named_parameters()):
            setattr(module, key, torch.nn.Parameter(p.detach() * 3))

    return {
        "load_state_dict": lambda module: module.load_state_dict(other.state_dict()),
        "load_state_dict assign": lambda module: module.load_state_dict(
            other.state_dict(), assign=True
        ),
        "optimizer step": optimizer_step,
        "in place": each(lambda p: p.mul_(2)),
        "one number in place": each(lambda p: p.view(-1)[-1].add_(1)),
        "behind autograd": each(lambda p: p.data.add_(1)),
        "signs": each(lambda p: p.data.neg_()),
        "through numpy": each(through_numpy),
        "shared memory": each(lambda p: p.data.share_memory_().mul_(0.5)),
        "data swap": each(data_swap),
        "new parameters": new_parameters,
        "there and back": lambda module: module.double().float(),
    }


def caches_of(module: torch.nn.Module) -> list[Any]:
    return list(module._caches)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [H, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("change", changes("GRU"))
@pytest.mark.parametrize("name", ALL)
@torch.no_grad()
def test_packed_weights_are_never_stale(name: str, change: str, size: int) -> None:
    module = make(name, size)
    for _ in range(3):
        before = output(module, name)
    assert caches_of(module)
    assert all(cache.filled for cache in caches_of(module))
    changes(name, size)[change](module)
    fresh = make(name, size)
    fresh.load_state_dict(module.state_dict())
    for _ in range(3):
        assert torch.equal(output(module, name), output(fresh, name))
    assert torch.equal(output(module, name), before) == (change == "there and back")


@pytest.mark.parametrize("name", ALL)
@torch.no_grad()
def test_one_weight_of_a_small_layer_changed_behind_autograd_counts(name: str) -> None:
    """What a finite difference does by hand."""
    module = make(name)
    h = torch.ones((3, H) if name in CELLS else (4, 3, H))
    inputs = sample(name), (h, h) if "LSTM" in name else h
    for p in module.parameters():
        for _ in range(3):
            before = tensors(module(*inputs))[0]
        p.data.view(-1)[-1] += 1
        assert not torch.equal(tensors(module(*inputs))[0], before)


@pytest.mark.parametrize("name", ALL)
@torch.no_grad()
def test_flatten_parameters_forgets_packed_weights(name: str) -> None:
    """The one change that a large layer must be told of."""
    module = make(name, LARGE)
    for _ in range(3):
        output(module, name)
    next(module.parameters()).data.view(-1)[70] += 1
    module.flatten_parameters()  # type: ignore[operator]
    assert not any(cache.filled for cache in caches_of(module))
    fresh = make(name, LARGE)
    fresh.load_state_dict(module.state_dict())
    assert torch.equal(output(module, name), output(fresh, name))


@pytest.mark.parametrize("name", ALL)
def test_training_packs_nothing_to_keep_and_a_loop_over_the_same_weights_does(name: str) -> None:
    module = make(name)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(3):
        output(module, name).sum().backward()
        optimizer.step()
        assert not any(cache.filled for cache in caches_of(module))
    for _ in range(3):
        output(module, name).sum().backward()
    assert all(cache.filled for cache in caches_of(module))


@pytest.mark.parametrize("name", ALL)
@torch.no_grad()
def test_another_backend_gets_its_own_packed_weights(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = make(name)
    expected = output(module, name)
    for backend in [b for b in fastrnn.backends() if b != "cuda"]:
        monkeypatch.setenv("FASTRNN_BACKEND", backend)
        for _ in range(3):
            torch.testing.assert_close(output(module, name), expected)


@pytest.mark.parametrize("name", ALL)
@torch.no_grad()
def test_weights_that_share_memory_are_seen_by_both_modules(name: str) -> None:
    first, second = make(name), make(name)
    for key, p in first.named_parameters():
        setattr(second, key, p)
    for _ in range(3):
        assert torch.equal(output(first, name), output(second, name))
    for p in first.parameters():
        p.mul_(2)
    fresh = make(name)
    fresh.load_state_dict(first.state_dict())
    assert torch.equal(output(second, name), output(fresh, name))


@pytest.mark.parametrize("name", ALL)
def test_tied_weights_get_both_gradients(name: str) -> None:
    key = "weight_hh" + ("" if name in CELLS else "_l0")
    (a, b), (c, d) = pair(name, I, H, dtype=torch.float64), pair(name, I, H, dtype=torch.float64)
    x = sample(name).double()
    for first, second in ((a, c), (b, d)):
        setattr(second, key, getattr(first, key))
        (tensors(first(x))[0].sum() + tensors(second(x))[0].sum()).backward()
    assert getattr(b, key) is getattr(d, key)
    torch.testing.assert_close(getattr(b, key).grad, getattr(a, key).grad)
    with torch.no_grad():
        getattr(b, key).zero_(), getattr(a, key).zero_()
    torch.testing.assert_close(tensors(d(x))[0], tensors(c(x))[0])


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "how", ["weight_norm", "old weight_norm", "spectral_norm", "parametrize", "prune"]
)
@pytest.mark.parametrize("name", ALL)
def test_reparametrised_weights_equal_torch(name: str, how: str) -> None:
    class Half(torch.nn.Module):
        def forward(self, w: torch.Tensor) -> torch.Tensor:
            return w / 2

    key = "weight_hh" + ("" if name in CELLS else "_l0")
    theirs, ours = pair(name, I, H, dtype=torch.float64)
    x = sample(name).double()
    gradients = []
    for module in (theirs, ours):
        torch.manual_seed(2)
        if how == "weight_norm":
            parametrizations.weight_norm(module, key)
        elif how == "old weight_norm":
            torch.nn.utils.weight_norm(module, key)
        elif how == "spectral_norm":
            parametrizations.spectral_norm(module, key)
        elif how == "parametrize":
            parametrize.register_parametrization(module, key, Half())
        else:
            prune.l1_unstructured(module, key, amount=0.5)
        module.eval()
        y = tensors(module(x))[0]
        gradients.append((y, *torch.autograd.grad(y.sum(), list(module.parameters()))))
    for got, expected in zip(gradients[1], gradients[0], strict=True):
        torch.testing.assert_close(got, expected)


def test_functional_call_uses_the_given_weights() -> None:
    module, other = make("LSTM"), make("LSTM")
    x = sample("LSTM")
    y, _ = torch.func.functional_call(module, dict(other.named_parameters()), (x,))
    assert torch.equal(y, other(x)[0])
    assert not torch.equal(y, module(x)[0])


def test_names_that_code_reads_are_there() -> None:
    module = make("LSTM")
    assert module.flatten_parameters() is None  # type: ignore[operator]
    assert [w.data_ptr() for w in module._flat_weights] == [
        p.data_ptr() for p in module.parameters()
    ]  # type: ignore[union-attr]
    assert len(module.all_weights) == 4  # type: ignore[arg-type]
    assert (module.batch_first, module.proj_size, module.mode) == (False, 0, "LSTM")


def test_hooks_run() -> None:
    module = make("GRU")
    seen = []
    module.register_forward_hook(lambda m, args, result: seen.append(result[0].shape))
    module.register_full_backward_hook(lambda m, dx, dy: seen.append("backward"))
    module(sample("GRU").requires_grad_())[0].sum().backward()
    assert seen == [torch.Size([7, 3, 2 * H]), "backward"]


def test_import_of_fastrnn_needs_no_torch_and_import_of_fastrnn_torch_gets_pytorch() -> None:
    code = (
        "import sys, fastrnn; assert 'torch' not in sys.modules\n"
        "import fastrnn.torch; import torch; assert fastrnn.torch is not torch\n"
        "assert fastrnn.torch.modules.torch is torch\n"
        "assert issubclass(fastrnn.torch.LSTM, torch.nn.LSTM)\n"
        "assert 'torch._dynamo' not in sys.modules, 'it takes longer to import than torch'\n"
        "import torch._dynamo; assert torch._dynamo.config.allow_rnn\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    code = "import torch._dynamo, fastrnn.torch; assert torch._dynamo.config.allow_rnn"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_import_without_torch_names_what_is_missing() -> None:
    code = "import sys; sys.modules['torch'] = None; import fastrnn; import fastrnn.torch"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "torch" in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].startswith("ModuleNotFoundError")


def test_the_gradient_of_the_input_is_a_tensor_like_any_other() -> None:
    """Its memory is the core's, and of a size at which that is used again."""
    lstm = fastrnn.torch.LSTM(64, 64)
    x = torch.randn(50, 32, 64, requires_grad=True)
    lstm(x)[0].sum().backward()
    assert x.grad is not None
    first, expected = x.grad, x.grad.clone()
    lstm(x)[0].sum().backward()  # adds to it
    torch.testing.assert_close(first, 2 * expected)
    x.grad = None
    lstm(2 * x)[0].sum().backward()  # may not lie where it lies
    assert torch.equal(first.mul_(0.5), expected)
    for same in (
        copy.deepcopy(first),
        pickle.loads(pickle.dumps(first)),
        torch.from_numpy(first.numpy()),
        first.clone().share_memory_(),
        first.share_memory_(),
    ):
        assert torch.equal(same, expected)
    assert torch.equal(first.resize_(10, 32, 64), expected[:10])
