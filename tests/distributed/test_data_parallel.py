"""The exact token mean under DDP and FSDP2, against one process in float64, with very uneven counts.

Float64 on both sides; 1e-12 allows some thousand roundings.
"""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import xent
from tests.distributed.processes import value_of
from xent.distributed import token_mean

CLASSES, FEATURES, MICRO = 11, 5, 3


def model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, CLASSES)).double()


def batches(rank):
    """1 to 400 tokens; on rank 1 the second micro-batch has none that counts."""
    generator = torch.Generator().manual_seed(rank)
    made = []
    for number in range(MICRO):
        size = (1, 40, 400, 7)[(rank + number) % 4]
        target = torch.randint(CLASSES, (size,), generator=generator)
        if rank == 1 and number == 1:
            target[:] = -100
        inputs = torch.randn(size, FEATURES, generator=generator, dtype=torch.float64) + rank
        made.append((inputs, target))
    return made


def step(wrapped, rank, group):
    mean = token_mean([target for _, target in batches(rank)], group)
    for inputs, target in batches(rank):
        loss = mean.add(xent.cross_entropy(wrapped(inputs), target, normalizer=mean.normalizer))
        loss.backward()
    return mean.value()


def one_process(size):
    net = model()
    inputs, targets = (torch.cat(parts) for parts in zip(*(b for r in range(size) for b in batches(r)), strict=True))
    loss = xent.cross_entropy(net(inputs), targets)
    loss.backward()
    return loss.item(), [p.grad for p in net.parameters()]


def worst_error(rank, size, net, wrapped):
    value, gradients = one_process(size)
    errors = [abs(step(wrapped, rank, dist.group.WORLD) - value)]
    for parameter, true in zip(net.parameters(), gradients, strict=True):
        mine = parameter.grad
        mine = mine.full_tensor() if hasattr(mine, "full_tensor") else mine
        errors.append(float((mine - true).abs().max()))
    return max(errors)


def under_ddp(rank, size):
    net = model()
    return worst_error(rank, size, net, DistributedDataParallel(net))


def under_fsdp2(rank, size):
    net = model()
    mesh = init_device_mesh("cpu", (size,))
    for layer in (net[0], net[2]):
        fully_shard(layer, mesh=mesh)
    return worst_error(rank, size, net, fully_shard(net, mesh=mesh))


def mean_of_means(rank, size):
    """What the usual mean gives: far from the truth, so that the checks above can fail."""
    net = model()
    wrapped = DistributedDataParallel(net)
    for inputs, target in batches(rank):
        count = max(int((target >= 0).sum()), 1)
        (xent.cross_entropy(wrapped(inputs), target, reduction="sum") / count / MICRO).backward()
    true = one_process(size)[1]
    return max(float((p.grad - g).abs().max()) for p, g in zip(net.parameters(), true, strict=True))


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_the_token_mean_is_exact(on_processes, size):
    results = on_processes(size, under_ddp, under_fsdp2, mean_of_means, limit=120)
    assert all(error < 1e-12 for error in value_of(results, under_ddp))
    assert all(error < 1e-12 for error in value_of(results, under_fsdp2))
    assert all(error > 1e-3 for error in value_of(results, mean_of_means))
