"""Processes on gloo: the same numbers as one process in float64, errors that reach every rank, and nothing that hangs.

Error allowed: 1e-6 of values around 1 in float32, eight roundings.
"""

from __future__ import annotations

import os
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

import xent
from tests.distributed.processes import value_of
from xent.distributed import global_row_count, token_mean, vocab_parallel_cross_entropy
from xent.distributed import vocab_parallel_linear_cross_entropy as linear

CLASSES, ROWS, FEATURES = 13, 9, 6
CUTS = {2: (0, 9, 13), 4: (0, 0, 5, 6, 13)}


def problem(dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randn(shape, generator=generator).to(dtype)  # noqa: E731
    target = torch.randint(CLASSES, (ROWS,), generator=generator)
    target[2] = -100
    return draw(ROWS, FEATURES), draw(CLASSES, FEATURES), draw(CLASSES), target


def own(rank, size):
    return slice(CUTS[size][rank], CUTS[size][rank + 1])


def numbers_are_those_of_one_process(rank, size):
    hidden, weight, bias, target = problem()
    group, here, found = dist.group.WORLD, own(rank, size), {}
    for name, options in OPTIONS.items():
        logits = (hidden @ weight.T + bias)[:, here].detach().requires_grad_()
        before = logits.detach().clone()
        loss, rows = vocab_parallel_cross_entropy(logits, target, group=group, stats=True, **options)
        (loss + rows.lse.sum()).backward()
        assert torch.equal(before, logits)
        h, w, b = (t.detach().requires_grad_() for t in (hidden, weight[here], bias[here]))
        total = linear(h, w, target, local_bias=b, group=group, max_memory=200, **options)
        total.backward()
        found[name] = [t.detach() for t in (loss, logits.grad, rows.prediction, total, h.grad, w.grad, b.grad)]
    return found


OPTIONS = {
    "plain": {},
    "smoothed": {"label_smoothing": 0.1, "z_loss": 1e-3},
    "capped": {"softcap": 5.0, "logit_scale": 0.5},
}


def errors_reach_every_rank(rank, size):
    hidden, weight, _, target = problem()
    here, texts = own(rank, size), []
    logits = (hidden @ weight.T)[:, here]
    wrong = [
        lambda: vocab_parallel_cross_entropy(logits[:-1] if rank == 1 else logits, target, group=dist.group.WORLD),
        lambda: vocab_parallel_cross_entropy(
            logits, target, group=dist.group.WORLD, label_smoothing=0.1 if rank else 0.0
        ),
        lambda: vocab_parallel_cross_entropy(logits, target.flip(0) if rank else target, group=dist.group.WORLD),
        lambda: vocab_parallel_cross_entropy(logits, target + 1, group=dist.group.WORLD),
        lambda: linear(hidden, weight[here], target, group=dist.group.WORLD, max_memory=1 if rank == 1 else None),
        lambda: linear(hidden, weight[here].int() if rank == 1 else weight[here], target, group=dist.group.WORLD),
    ]
    for call in wrong:
        with pytest.raises(xent.XentError) as caught:
            call()
        texts.append(f"{type(caught.value).__name__}: {caught.value}")
    return texts


def a_failing_backward_reaches_every_rank(rank, size):
    hidden, weight, _, target = problem()
    h = hidden.requires_grad_()
    loss = linear(h, weight[own(rank, size)].requires_grad_(), target, group=dist.group.WORLD)
    if rank == 1:
        from xent.distributed import _linear_work

        def fail(*_):
            raise MemoryError("no room")

        _linear_work.LinearWork._gradient = fail
    try:
        loss.backward()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        if rank == 1:
            from importlib import reload

            reload(_linear_work)
    return "nothing"


def counts_and_means(rank, size):
    targets = [torch.arange(rank * 3 + batch) for batch in range(3)]
    targets = [t.where(t % 4 != 3, -100) for t in targets]
    count = global_row_count(targets, dist.group.WORLD)
    generator = torch.Generator().manual_seed(rank)
    mean, sums = token_mean(targets, dist.group.WORLD), 0.0
    for target in targets:
        logits = torch.randn(len(target), 20, generator=generator)
        loss = mean.add(xent.cross_entropy(logits, target, normalizer=mean.normalizer))
        assert loss.isfinite()
        sums += float(xent.cross_entropy(logits.double(), target, reduction="sum"))
    return float(count), mean.value(), sums


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_numbers_errors_and_counts(on_processes, size):
    checks = (
        numbers_are_those_of_one_process,
        errors_reach_every_rank,
        a_failing_backward_reaches_every_rank,
        counts_and_means,
    )
    results = on_processes(size, *checks)
    _check_numbers(value_of(results, numbers_are_those_of_one_process), size)
    texts = value_of(results, errors_reach_every_rank)
    assert texts[0][0].startswith("ShapeError: rank 1: target has shape (9,)")
    assert texts[1][0].startswith("ShapeError: target has shape (9,)")
    for number, part in ((1, "digest of the options"), (2, "digest of the targets"), (3, "out of bounds")):
        assert all(part in text[number] for text in texts), part
    assert "max_memory=1 bytes" in texts[0][4]
    assert "rank 1: local_weight" in texts[0][5] or "rank 1: linear_weight" in texts[0][5]
    assert all("no room" in text for text in value_of(results, a_failing_backward_reaches_every_rank))
    counted = value_of(results, counts_and_means)
    assert len({value[:2] for value in counted}) == 1
    assert counted[0][1] == pytest.approx(sum(value[2] for value in counted) / counted[0][0], rel=1e-6)


def _check_numbers(found: list, size: int) -> None:
    hidden, weight, bias, target = (t.double() if t.is_floating_point() else t for t in problem())
    for name, options in OPTIONS.items():
        logits = (hidden @ weight.T + bias).requires_grad_()
        loss, rows = xent.cross_entropy(logits, target, stats=True, **options)
        (loss + rows.lse.sum()).backward()
        h, w, b = (t.detach().requires_grad_() for t in (hidden, weight, bias))
        xent.linear_cross_entropy(h, w, target, linear_bias=b, **options).backward()
        ranks = [result[name] for result in found]
        wanted = (loss, logits.grad, rows.prediction, loss, h.grad, w.grad, b.grad)
        for number, (true, dim) in enumerate(zip(wanted, (None, 1, None, None, None, 0, 0), strict=True)):
            parts = [rank[number] for rank in ranks]
            if dim is None:
                assert all(torch.equal(part, parts[0]) for part in parts)
            whole = parts[0] if dim is None else torch.cat(parts, dim)
            torch.testing.assert_close(whole.double(), true.detach().double(), rtol=1e-6, atol=1e-6)


def a_rank_dies(rank, size):
    logits, target = torch.zeros(4, 5), torch.tensor([0, 1, 2, 3])
    if rank == 1:
        os._exit(9)
    with pytest.raises(xent.XentError) as caught:
        vocab_parallel_cross_entropy(logits, target, group=dist.group.WORLD)
    return str(caught.value)


def a_rank_does_not_come(rank, size):
    """Until the other has given up; both make the group whose time is over soon when both are there."""
    logits, target = torch.zeros(4, 5), torch.tensor([0, 1, 2, 3])
    dist.barrier()
    group = dist.new_group(timeout=timedelta(seconds=4))
    said = ""
    if rank == 0:
        with pytest.raises(xent.XentError) as caught:
            vocab_parallel_cross_entropy(logits, target, group=group)
        said = str(caught.value)
    dist.barrier()
    return said


def test_a_dead_rank_is_noticed(on_processes):
    """Not by the end of the group's time, which is later than that of the test."""
    text = on_processes(2, a_rank_dies, timeout=1000)[0]["a_rank_dies"]
    assert "lost the others" in text
    assert "rank 0 of a group of 2" in text


@pytest.mark.slow
def test_a_missing_rank_ends_in_a_timeout_that_is_explained(on_processes):
    found = value_of(on_processes(2, a_rank_does_not_come), a_rank_does_not_come)
    assert "until the group's time was over" in found[0]
