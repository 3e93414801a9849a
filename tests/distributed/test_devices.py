"""What concerns other devices than the CPU, without one: stand-ins say where tensors lie, and whose values can be read."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode

import xent
from tests.distributed.in_threads import ThreadRanks, on_ranks
from xent import target_checks
from xent.distributed import vocab_parallel_cross_entropy, vocab_parallel_linear_cross_entropy
from xent.distributed._ranks import GroupRanks
from xent.errors import TargetRangeError
from xent.head import HeadRows
from xent.ops.native.autocast import outside_autocast, with_casts
from xent.terms import LossTerms

CUDA = torch.device("cuda", 0)


@pytest.fixture
def unread_targets(monkeypatch):
    """Targets whose values cost a wait, as on a GPU, with the check off."""
    monkeypatch.setattr(target_checks, "readable_at_once", lambda tensor: False)
    monkeypatch.setattr(target_checks.switch, "on", False)


@pytest.mark.parametrize("check", [False, True])
def test_a_target_out_of_range_raises_on_all_ranks_with_and_without_the_check(unread_targets, monkeypatch, check):
    """One rank with XENT_CHECK=1 and one without must do the same: else one waits for the other."""

    def work(ranks: ThreadRanks):
        loss = (vocab_parallel_cross_entropy, vocab_parallel_linear_cross_entropy)
        given = ((torch.zeros(2, 3),), (torch.zeros(2, 4), torch.zeros(3, 4)))
        texts = []
        for call, tensors in zip(loss, given, strict=True):
            with pytest.raises(TargetRangeError) as caught:
                call(*tensors, torch.tensor([1, 6]), group=ranks)
            texts.append(str(caught.value))
        return texts

    monkeypatch.setattr(target_checks.switch, "on", check)
    for texts in on_ranks(2, work):
        assert all("1 of 2 targets are out of bounds (6" in text for text in texts), texts


def test_correct_is_asked_of_all_classes_where_values_are_not_read(unread_targets):
    """Indices beyond the rank's own classes must not be cut to them: no row but the first is right."""
    logits = torch.tensor([[0.0, 0, 0, 9, 0], [0, 9, 0, 0, 0], [9, 0, 0, 0, 0]])
    target = xent.SparseTarget(torch.tensor([[3], [4], [2]]), torch.ones(3, 1))

    def work(ranks: ThreadRanks):
        here = slice(0, 2) if ranks.rank == 0 else slice(2, 5)
        return vocab_parallel_cross_entropy(logits[:, here], target, group=ranks, stats=True)[1].correct

    for correct in on_ranks(2, work):
        assert correct.tolist() == [True, False, False]


def test_messages_go_to_a_device_of_the_group_and_their_answer_comes_back(monkeypatch):
    """A rank whose argument is no tensor on the group's device tells so from the CPU."""
    seen = []

    def collective(*tensors, group, async_op):
        seen.extend(tensor.device for tensor in tensors)
        return SimpleNamespace(wait=lambda: None)

    for name in ("all_gather_single", "all_gather_into_tensor", "all_reduce"):
        monkeypatch.setattr(dist, name, collective, raising=False)
    ranks = object.__new__(GroupRanks)
    ranks.group, ranks.rank, ranks.size = SimpleNamespace(_device_types=[CUDA]), 0, 2  # pyright: ignore[reportAttributeAccessIssue]
    with FakeTensorMode():
        for device in ("cpu", CUDA):
            message, into = torch.zeros(8, device=device), torch.zeros(2, 8, device=device)
            results = ranks.gather(message).wait(), ranks.gather(message, into).wait(), ranks.add(message).wait()
            assert [result.device for result in results] == [torch.device(device)] * 3
            assert [tuple(result.shape) for result in results] == [(2, 8), (2, 8), (8,)]
            assert results[2] is message
    assert seen == [CUDA] * 10


@contextmanager
def autocast_of(device: str):
    """What `torch.autocast` sets, without the device."""
    torch.set_autocast_enabled(device, True)
    try:
        yield
    finally:
        torch.set_autocast_enabled(device, False)


def head_on(device) -> HeadRows:
    target = torch.zeros(2, dtype=torch.int64, device=device)
    return HeadRows(torch.zeros(2, 4, device=device), torch.zeros(3, 4, device=device), None, (), target, LossTerms())


@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_autocast_is_that_of_the_device_of_the_tensors(where):
    half = {"cpu": torch.bfloat16, "cuda": torch.float16}[where]
    with FakeTensorMode():
        heads = {device: head_on(device) for device in ("cpu", "cuda")}
        with autocast_of(where):
            for device, head in heads.items():
                cast = with_casts(head)
                expected = half if device == where else torch.float32
                assert (cast.hidden.dtype, cast.weight.dtype) == (expected, expected)
            inside = outside_autocast(lambda ctx, gradient: (torch.is_autocast_enabled(where),))  # pyright: ignore[reportArgumentType, reportReturnType]
            for device, head in heads.items():
                assert inside(None, head.hidden) == (device != where,)
            assert torch.is_autocast_enabled(where)
