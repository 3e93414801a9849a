"""One rank fails, wherever that is: the others raise with its cause, and nobody waits for a message that never comes."""

from __future__ import annotations

import threading
import traceback

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.overrides import TorchFunctionMode

import xent
from tests.distributed import in_threads
from tests.distributed.in_threads import ThreadRanks, on_ranks
from tests.distributed.processes import value_of
from xent.distributed import _vocab_parallel_linear, global_row_count, vocab_parallel_cross_entropy
from xent.distributed import vocab_parallel_linear_cross_entropy as linear

ROWS, CLASSES, FEATURES = 256, 6, 8  # every tensor with a number for each row has this many bytes or more


class NoRoom(TorchFunctionMode):
    """The `number`th tensor of at least `ROWS` bytes finds no memory: what a rank does when its device is full."""

    def __init__(self, number: int) -> None:
        self.number, self.seen, self.paused = number, 0, False

    def __torch_function__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if self.paused or not isinstance(made, torch.Tensor) or made.untyped_storage().nbytes() < ROWS:
            return made
        given = [value.data_ptr() for value in args if isinstance(value, torch.Tensor)]
        if made.data_ptr() not in given and made._base is None:
            self.seen += 1
            if self.seen == self.number:
                raise MemoryError("no room")
        return made


class Paused:
    """Ranks whose own tensors are no part of the experiment."""

    def __init__(self, ranks: ThreadRanks, mode: NoRoom) -> None:
        self.rank, self.size, self._ranks, self.mode = ranks.rank, ranks.size, ranks, mode

    def gather(self, message, into=None):
        return self._send(lambda: self._ranks.gather(message, into))

    def add(self, tensor):
        return self._send(lambda: self._ranks.add(tensor))

    def _send(self, call):
        self.mode.paused = True
        try:
            return call()
        finally:
            self.mode.paused = False


def tensors():
    generator = torch.Generator().manual_seed(7)
    target = torch.randint(CLASSES, (ROWS,), generator=generator)
    target[3] = -100
    draw = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    return draw(ROWS, FEATURES), draw(CLASSES, FEATURES), target


def call_of(kind: str, ranks, hidden, weight, target):
    here = slice(0, 4) if ranks.rank == 0 else slice(4, CLASSES)
    if kind.startswith("linear"):
        own = weight[here]
        return lambda: linear(hidden, own, target, group=ranks, max_memory=1500)
    options = {"label_smoothing": 0.1} if kind == "formula" else {}
    logits = (hidden @ weight.T)[:, here].detach()
    return lambda: vocab_parallel_cross_entropy(logits, target, group=ranks, **options)


def failing_at(number: int, kind: str):
    """What each of two ranks returned or raised, the second without room; and how many tensors it made."""
    made = []

    def work(ranks: ThreadRanks):
        hidden, weight, target = tensors()
        mode = NoRoom(number if ranks.rank else 0)
        ranks = Paused(ranks, mode)
        for leaf in (hidden, weight):
            leaf.requires_grad_(kind == "linear backward")
        call = call_of(kind, ranks, hidden, weight, target)
        if kind == "linear backward":
            call().backward()  # the mode begins in `_gradients`
            result = hidden.grad
        else:
            with mode:
                result = call()
        if ranks.rank:
            made.append(mode.seen)
        return result

    return on_ranks(2, work), made


def _places(number: int, error: BaseException) -> str:
    """Where rank 1 was while rank 0 waited."""
    return f"tensor {number}: " + "".join(traceback.format_exception(error))


@pytest.mark.parametrize("kind", ["plain", "formula", "linear", "linear backward"])
def test_no_memory_on_one_rank_reaches_the_other_wherever_it_is(kind, monkeypatch):
    """Until the last message has gone: after that nobody waits, and the other rank has its numbers."""

    def in_its_own_mode(rows, shard, ranks, *others):
        with ranks.mode:
            return gradients(rows, shard, ranks, *others)

    gradients = _vocab_parallel_linear._gradients
    monkeypatch.setattr(_vocab_parallel_linear, "_gradients", in_its_own_mode)
    monkeypatch.setattr(in_threads, "PATIENCE", 10)
    (first, _), (count,) = failing_at(10**6, kind)
    number, told, alone = 1, 0, 0
    while number <= count and alone < 2:
        (other, failed), _ = failing_at(number, kind)
        assert not isinstance(other, threading.BrokenBarrierError), _places(number, failed)
        assert isinstance(failed, MemoryError), failed
        if isinstance(other, Exception):
            assert "rank 1 raised MemoryError: no room" in str(other), number
            told += 1
        else:
            torch.testing.assert_close(other, first, rtol=0, atol=0)
            alone += 1
        number += 1
    assert told >= 3, (told, alone, count)


def rows_of_dtensors_fail_together(rank, size):
    """A mistake in the rows of rank 1 alone, whose sums the others would wait for."""
    mesh = init_device_mesh("cpu", (size,))
    hidden, weight, target = tensors()
    target[-1] = CLASSES
    logits = distribute_tensor(hidden @ weight.T, mesh, [Shard(0)])
    states = distribute_tensor(hidden, mesh, [Shard(0)])
    right = target.clamp(max=CLASSES - 1)
    calls = [
        lambda: xent.cross_entropy(logits, target),
        lambda: xent.linear_cross_entropy(states, weight, target),
        lambda: xent.cross_entropy(logits, right[:-1] if rank == 1 else right),
        lambda: xent.cross_entropy(logits, right, row_weight=torch.ones(3)),
        lambda: xent.cross_entropy(logits, right.tolist()),
    ]
    return [said(call) for call in calls]


def said(call) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def strided_shards_are_refused(rank, size):
    """What torch makes of a split dimension that is not the first of those that are flattened."""
    mesh = init_device_mesh("cpu", (size,))
    logits = distribute_tensor(torch.randn(2, 4, CLASSES), mesh, [Shard(1)]).flatten(0, 1)
    wide = distribute_tensor(torch.randn(CLASSES, 2, 4), mesh, [Shard(2)]).flatten(1, 2)
    assert all(type(t.placements[0]).__name__ == "_StridedShard" for t in (logits, wide))
    target = torch.zeros(8, dtype=torch.int64)
    return said(lambda: xent.cross_entropy(logits, target)), said(lambda: xent.cross_entropy(wide, target[:CLASSES]))


def a_mesh_of_two_axes_is_no_group(rank, size):
    mesh = init_device_mesh("cpu", (size, 1), mesh_dim_names=("a", "b"))
    logits, target = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)
    found = vocab_parallel_cross_entropy(logits, target, group=mesh["a"])
    assert float(found) == pytest.approx(torch.tensor(3.0 * size).log().item(), rel=1e-6)
    return said(lambda: vocab_parallel_cross_entropy(logits, target, group=mesh))


def test_mistakes_with_dtensors_reach_every_rank(on_processes):
    checks = (rows_of_dtensors_fail_together, strided_shards_are_refused, a_mesh_of_two_axes_is_no_group)
    results = on_processes(2, *checks)
    first, second = value_of(results, rows_of_dtensors_fail_together)
    parts = ("out of bounds", "out of bounds", "target has shape (255,)", "row_weight has shape (3,)", "is a list")
    for number, part in enumerate(parts):
        assert part in first[number], first
        assert part in second[number], second
    assert first[0].startswith("TargetRangeError: rank 1: 1 of 128 targets")
    assert second[0].startswith("TargetRangeError: 1 of 128 targets")
    for texts in value_of(results, strided_shards_are_refused):
        assert all(text.startswith("OptionError: input is placed as _S") for text in texts), texts
    assert all(
        text.startswith("DtypeError: group is a DeviceMesh of 2 dimensions")
        for text in value_of(results, a_mesh_of_two_axes_is_no_group)
    )


def one_corner_of_a_mesh_fails(rank, size):
    """Rows × classes, and rows × rows: the mistake is that of the last rank, or of those who have its rows."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("a", "b"))
    hidden, weight, target = tensors()
    logits = hidden @ weight.T
    target[-1] = CLASSES
    texts = [
        said(lambda: xent.cross_entropy(distribute_tensor(logits, mesh, [Shard(0), Shard(1)]), target)),
        said(lambda: xent.cross_entropy(distribute_tensor(logits, mesh, [Shard(0), Shard(0)]), target)),
        said(lambda: xent.cross_entropy(distribute_tensor(logits, mesh, [Shard(0), Replicate()]), target)),
    ]
    given = distribute_tensor(logits, mesh, [Shard(0), Shard(1)])
    right = target.clamp(max=CLASSES - 1)
    texts.append(said(lambda: xent.cross_entropy(given, right[1:] if rank == 3 else right)))
    found = xent.cross_entropy(given, right)
    assert isinstance(found, DTensor)
    torch.testing.assert_close(found.full_tensor(), xent.cross_entropy(logits, right), rtol=1e-6, atol=0)
    return texts


def a_group_of_some_ranks(rank, size):
    """Numbers of ranks in the group are not those of the processes."""
    hidden, weight, target = tensors()
    group = dist.new_group([1, 3])
    if rank not in (1, 3):
        return said(lambda: vocab_parallel_cross_entropy(hidden, target, group=group))
    here = slice(0, 4) if rank == 1 else slice(4, CLASSES)
    logits = hidden @ weight.T
    loss = vocab_parallel_cross_entropy(logits[:, here], target, group=group)
    states = hidden.clone().requires_grad_()
    linear(states, weight[here], target, group=group).backward()
    whole = hidden.clone().requires_grad_()
    true = xent.linear_cross_entropy(whole, weight, target)
    true.backward()
    torch.testing.assert_close(loss, true.detach(), rtol=1e-6, atol=0)
    torch.testing.assert_close(states.grad, whole.grad, rtol=1e-6, atol=5e-9)  # of products up to 1e-2
    count = global_row_count(target[: rank + 1], group)
    wrong = target[1:] if rank == 3 else target
    return float(count), said(lambda: vocab_parallel_cross_entropy(logits[:, here], wrong, group=group))


@pytest.mark.slow
def test_meshes_and_groups_of_four(on_processes):
    results = on_processes(4, one_corner_of_a_mesh_fails, a_group_of_some_ranks)
    for texts in value_of(results, one_corner_of_a_mesh_fails):
        assert all("out of bounds" in text for text in texts[:3]), texts
        assert "target has shape (255,)" in texts[3], texts
    first, member, third, last = value_of(results, a_group_of_some_ranks)
    assert "this process is not in the group" in first
    assert "this process is not in the group" in third
    assert member[0] == last[0] == 2 + 3  # row 3 is ignored
    assert member[1].startswith("ShapeError: rank 1: target has shape (255,)")
    assert last[1].startswith("ShapeError: target has shape (255,)")
