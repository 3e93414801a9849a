"""Any number of threads gives the same bits; forks and loader workers compute."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import xent


def value_and_gradient(threads: int, x: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    torch.set_num_threads(threads)
    leaf = x.detach().requires_grad_()
    with xent.backend("native"):
        loss = xent.cross_entropy(leaf, target, label_smoothing=0.1, reduction="none")
    return loss, torch.autograd.grad(loss.sum() if loss.numel() < 1000 else loss[:999].sum(), leaf)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bitwise_equal_for_any_number_of_threads(isa: str, dtype: torch.dtype) -> None:
    if isa == "scalar":
        pytest.skip("the cut into chunks is the same")
    cases = [(torch.randn(600, 3000), 1), (torch.randn(40000, 17), 1), (torch.randn(4, 500, 700), 1)]
    for numbers, dim in cases:
        x = numbers.to(dtype)
        target = torch.randint(0, x.shape[dim], x.movedim(dim, -1).shape[:-1])
        one, *others = (value_and_gradient(threads, x, target) for threads in (1, 2, 7))
        for other in others:
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def _loss_in_child(result: multiprocessing.SimpleQueue) -> None:
    result.put(_native_loss(3))


def _native_loss(seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(300, 4000, generator=generator), torch.randint(0, 4000, (300,), generator=generator)
    with xent.backend("native"):
        return float(xent.cross_entropy(x.requires_grad_(), y).detach())


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_computes() -> None:
    here = _native_loss(3)
    context = multiprocessing.get_context("fork")
    result = context.SimpleQueue()
    child = context.Process(target=_loss_in_child, args=(result,))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert result.get() == pytest.approx(here, rel=1e-6)


class _Losses(Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> float:
        return _native_loss(index)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_loader_worker_computes() -> None:
    loaded = [float(value) for value in DataLoader(_Losses(), batch_size=None, num_workers=2, timeout=60)]
    assert loaded == pytest.approx([_native_loss(index) for index in range(4)], rel=1e-6)


def test_calls_from_several_python_threads() -> None:
    want, seen = _native_loss(5), []
    workers = [threading.Thread(target=lambda: seen.append(_native_loss(5))) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert seen == [want] * 4


_FIRST_USE_IN_A_FORK = """
import os, torch, xent
torch.set_num_threads(2)
torch.rand(1 << 20).sum()  # the pool of this process begins
logits, target = torch.rand(300, 4000), torch.zeros(300, dtype=torch.int64)
with xent.backend("native"):
    child = os.fork()
    if child == 0:
        os._exit(0 if float(xent.cross_entropy(logits, target)) > 0 else 3)
    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_that_is_the_first_to_use_the_kernels_does_not_wait_for_its_parents_threads() -> None:
    command = [sys.executable, "-W", "ignore", "-c", _FIRST_USE_IN_A_FORK]
    assert subprocess.run(command, timeout=60, check=False).returncode == 0
