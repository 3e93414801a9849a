"""DTensors split by classes, rows and sequence, on meshes of one and two axes: numbers of the whole, in float64.

Values are around 1 and computed in float64 on both sides: 1e-12 allows some thousand roundings of 2e-16.
"""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

import xent
from tests.distributed.processes import value_of

BATCH, LENGTH, CLASSES, FEATURES = 3, 5, 7, 4
OPTIONS = {
    "plain": {},
    "smoothed": {"label_smoothing": 0.1, "z_loss": 1e-3, "weight": True},
    "sum": {"reduction": "sum", "row_weight": True},
    "none": {"reduction": "none"},
}


def problem():
    generator = torch.Generator().manual_seed(5)
    draw = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)  # noqa: E731
    target = torch.randint(CLASSES, (BATCH, LENGTH), generator=generator)
    target[0, 1] = -100
    weights = {"weight": draw(CLASSES).exp(), "row_weight": draw(BATCH, LENGTH).exp()}
    return draw(BATCH, LENGTH, FEATURES), draw(CLASSES, FEATURES), target, weights


def chosen(name, weights):
    return {key: weights[key] if value is True else value for key, value in OPTIONS[name].items()}


def meshes(size):
    names = {2: [(2,)], 4: [(4,), (2, 2)]}[size]
    return [init_device_mesh("cpu", shape, mesh_dim_names=tuple("ab"[: len(shape)])) for shape in names]


def logits_of_every_placement(rank, size):
    hidden, head, target, weights = problem()
    logits, worst, count = hidden @ head.T, 0.0, 0
    for mesh in meshes(size):
        for placements in itertools.product((Shard(0), Shard(1), Shard(2), Replicate()), repeat=mesh.ndim):
            if placements.count(Shard(2)) > 1:
                continue
            for name in OPTIONS:
                options = chosen(name, weights)
                whole = logits.clone().requires_grad_()
                true = xent.cross_entropy(whole, target, dim=-1, **options)
                true.sum().backward()
                given = distribute_tensor(logits, mesh, placements).requires_grad_()
                loss = xent.cross_entropy(given, target, dim=-1, **options)
                assert isinstance(loss, DTensor)
                if name == "none":
                    by_rows = [p if p.is_shard() and p.dim < 2 else Replicate() for p in placements]
                    assert list(loss.placements) == by_rows
                    loss.full_tensor().sum().backward()
                else:
                    assert all(p.is_replicate() for p in loss.placements)
                    loss.backward()
                assert given.grad.placements == given.placements
                worst = max(worst, float((loss.full_tensor() - true).abs().max()))
                worst = max(worst, float((given.grad.full_tensor() - whole.grad).abs().max()))
                count += 1
    return worst, count


def linear_of_some_placements(rank, size):
    hidden, head, target, weights = problem()
    bias, worst = torch.linspace(-1, 1, CLASSES, dtype=torch.float64), 0.0
    for mesh in meshes(size):
        pairs = itertools.product((Shard(0), Shard(1), Replicate()), (Shard(0), Replicate()))
        for placements in itertools.product(pairs, repeat=mesh.ndim):
            of_hidden, of_head = [p[0] for p in placements], [p[1] for p in placements]
            options = chosen("smoothed", weights)
            leaves = [t.clone().requires_grad_() for t in (hidden, head, bias)]
            true = xent.linear_cross_entropy(leaves[0], leaves[1], target, linear_bias=leaves[2], **options)
            true.backward()
            given = [
                distribute_tensor(hidden, mesh, of_hidden).requires_grad_(),
                distribute_tensor(head, mesh, of_head).requires_grad_(),
                distribute_tensor(bias, mesh, of_head).requires_grad_(),
            ]
            loss = xent.linear_cross_entropy(given[0], given[1], target, linear_bias=given[2], **options)
            loss.backward()
            worst = max(worst, float((loss.full_tensor() - true).abs()))
            for mine, theirs in zip(given, leaves, strict=True):
                worst = max(worst, float((mine.grad.full_tensor() - theirs.grad).abs().max()))
    return worst


def statistics_and_probabilities(rank, size):
    hidden, head, target, _ = problem()
    logits = hidden @ head.T
    (mesh, *_) = meshes(size)
    given = distribute_tensor(logits, mesh, [Shard(2)])
    loss, rows = xent.cross_entropy(given, distribute_tensor(target, mesh, [Shard(0)]), dim=-1, stats=True)
    true, true_rows = xent.cross_entropy(logits, target, dim=-1, stats=True)
    worst = float((loss.full_tensor() - true).abs())
    for name in rows._fields:
        mine, theirs = getattr(rows, name).full_tensor(), getattr(true_rows, name)
        worst = max(worst, float((mine.double() - theirs.double()).abs().max()))
    soft = logits.flip(0).softmax(-1)
    mine = xent.cross_entropy(given, distribute_tensor(soft, mesh, [Shard(0)]), dim=-1).full_tensor()
    worst = max(worst, float((mine - xent.cross_entropy(logits, soft, dim=-1)).abs()))
    by_rows = distribute_tensor(logits, mesh, [Shard(0)])
    mine = xent.cross_entropy(by_rows, target, dim=-1, shift=1).full_tensor()
    worst = max(worst, float((mine - xent.cross_entropy(logits, target, dim=-1, shift=1)).abs()))
    by_sequence = distribute_tensor(logits, mesh, [Shard(1)])
    with pytest.raises(xent.XentError, match="shift the targets before you shard them"):
        xent.cross_entropy(by_sequence, target, dim=-1, shift=1)
    shifted = F.pad(target[..., 1:], (0, 1), value=-100)
    mine = xent.cross_entropy(by_sequence, shifted, dim=-1).full_tensor()
    return max(worst, float((mine - xent.cross_entropy(logits, target, dim=-1, shift=1)).abs()))


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_dtensors(on_processes, size):
    checks = (logits_of_every_placement, linear_of_some_placements, statistics_and_probabilities)
    results = on_processes(size, *checks, limit=200)
    for worst, count in value_of(results, logits_of_every_placement):
        assert worst < 1e-12
        assert count >= 16
    assert all(worst < 1e-12 for worst in value_of(results, linear_of_some_placements))
    assert all(worst < 1e-12 for worst in value_of(results, statistics_and_probabilities))
