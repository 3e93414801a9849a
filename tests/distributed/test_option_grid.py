"""Any combination of options × 1 to 5 ranks × uneven and empty shards, against the unsharded truth.

The ranks are threads of this process (in_threads.py); the same files on processes are in test_processes.py. The budget
is that of one process (tests/functional/budget.py): the merge adds at most one rounding to the log-sum-exp.
"""

from __future__ import annotations

import pytest
import torch

import xent
from tests import oracle
from tests.distributed.in_threads import on_ranks
from tests.functional.budget import assert_within_budget, leaf, measured, plain_cross_entropy, stats_dtype, upstream_for
from tests.functional.test_option_grid import CLASSES, GRID, Problem, check_statistics, id_of, plain_linear
from xent.distributed import vocab_parallel_cross_entropy, vocab_parallel_linear_cross_entropy

CUTS = {1: (0, 5), 2: (0, 2, 5), 3: (0, 0, 4, 5), 4: (0, 1, 1, 3, 5), 5: (0, 1, 2, 3, 4, 5)}
SMALL = 3 * 4 * 64 * 64 + 320  # the blocks of a half product in float32, and two rows or more of logits
BACKENDS = ("auto", "reference")
LINEAR = [chosen for chosen in GRID if chosen["layout"] != "NCde"]


class Sharded:
    """One rank's tensors of a problem: leaves of its own."""

    def __init__(self, problem: Problem, cuts: tuple[int, ...], rank: int) -> None:
        self.problem, self.part = problem, slice(cuts[rank], cuts[rank + 1])
        self.dim = problem._dim()

    def of(self, tensor: torch.Tensor, dim: int = 0) -> torch.Tensor:
        return leaf(tensor.detach().narrow(dim, self.part.start, self.part.stop - self.part.start).clone())

    def target(self):
        target = self.problem.target
        if isinstance(target, xent.SparseTarget) or not target.is_floating_point():
            return target
        return self.of(target, self.dim)

    def options(self) -> dict:
        options = dict(self.problem.options)
        if "weight" in options:
            options["weight"] = self.of(options["weight"])
        if "row_weight" in options:
            options["row_weight"] = leaf(options["row_weight"])
        return options


def joined(problem: Problem, results: list[dict], dims: dict[str, int]) -> dict[str, torch.Tensor]:
    """The whole tensors from the ranks' parts; what all ranks have must be one and the same."""
    for result in results:
        if isinstance(result, Exception):
            raise result
    whole = {}
    for name in results[0]:
        parts = [result[name] for result in results]
        if name in dims:
            whole[name] = torch.cat(parts, dims[name])
        else:
            assert all(torch.equal(part.nan_to_num(7.0), parts[0].nan_to_num(7.0)) for part in parts), name
            whole[name] = parts[0]
    return whole


def whole_probabilities(results: list) -> list:
    """Of a sparse target's probabilities every rank has the gradient of its own classes, one without classes none: their
    sum is the whole one.
    """
    name, dicts = "grad.probabilities", [result for result in results if isinstance(result, dict)]
    parts = [result[name] for result in dicts if name in result]
    if parts:
        for result in dicts:
            result[name] = sum(parts[1:], parts[0])
    return results


def row_leaves(problem: Problem, target, options: dict) -> dict:
    sparse = isinstance(target, xent.SparseTarget)
    named = {"probabilities": leaf(target.probabilities)} if sparse else {"target": target}
    return named | {name: options[name] for name in ("weight", "row_weight") if name in options}


@pytest.mark.parametrize("chosen", GRID, ids=id_of)
def test_cross_entropy(chosen):
    problem = Problem(chosen)
    input = problem.logits()
    options = {**problem.options, "dim": problem.class_dim}
    plain_leaves = {"input": input, "target": problem.dense, **{k: v for k, v in options.items() if "weight" in k}}
    plain = measured(lambda: plain_cross_entropy(input, problem.dense, problem.plain_options(options)), plain_leaves)
    shape = tuple(plain["loss"].shape) if chosen["reduction"] == "none" else ()
    truth = oracle.cross_entropy(
        input, problem.dense, problem.truth_options(options), upstream_for(shape, torch.float64)
    )
    problem.with_entries(truth, plain)
    dims = {"grad.input": problem._dim(), "grad.weight": 0}
    if problem.dense is problem.target and problem.target.is_floating_point():
        dims["grad.target"] = problem._dim()
    unit = torch.finfo(stats_dtype(problem.dtype)).eps
    for number, (size, cuts) in enumerate(CUTS.items()):
        backend = BACKENDS[number % 2]

        def work(ranks, cuts=cuts, backend=backend):
            own = Sharded(problem, cuts, ranks.rank)
            logits, target, options = own.of(input, problem._dim()), own.target(), own.options()
            leaves = row_leaves(problem, target, options)
            if isinstance(target, xent.SparseTarget):
                target = xent.SparseTarget(target.indices, leaves["probabilities"])
            with xent.backend(backend):
                call = lambda **more: vocab_parallel_cross_entropy(  # noqa: E731
                    logits, target, group=ranks, dim=problem.class_dim, **options, **more
                )
                got = measured(call, {"input": logits, **leaves})
                assert [kind for kind, _ in ranks.sent] == ["gather"] * 2
                with torch.no_grad():
                    _, rows = call(stats=True)
            return got | {f"rows.{name}": value for name, value in rows._asdict().items()}

        got = joined(problem, whole_probabilities(on_ranks(size, work)), dims)
        rows = xent.RowStats(**{n: got.pop(f"rows.{n}") for n in xent.RowStats._fields})
        assert got["loss"].dtype == stats_dtype(problem.dtype)
        assert_within_budget(truth, got, plain, unit)
        check_statistics(rows, truth, 2 * unit, problem.dtype)


@pytest.mark.parametrize("chosen", LINEAR, ids=id_of)
def test_linear_cross_entropy(chosen):
    problem = Problem(chosen)
    hidden, head, bias = problem.head()
    dim = -1 if problem.class_dim is None else problem.class_dim
    options = {**problem.options, "dim": dim}
    leaves = {"hidden": hidden, "linear_weight": head}
    leaves |= {} if bias is None else {"linear_bias": bias}
    plain = plain_linear(hidden, head, problem.dense, bias, problem.plain_options(options), leaves)
    shape = tuple(plain["loss"].shape) if chosen["reduction"] == "none" else ()
    upstream = upstream_for(shape, torch.float64)
    truth = oracle.linear_cross_entropy(hidden, head, problem.dense, problem.truth_options(options), bias, upstream)
    unit = torch.finfo(problem.dtype).eps
    for number, (size, cuts) in enumerate(CUTS.items()):
        backend = BACKENDS[(number + 1) % 2]

        def work(ranks, cuts=cuts, backend=backend):
            own = Sharded(problem, cuts, ranks.rank)
            local = {"hidden": leaf(hidden), "linear_weight": own.of(head)}
            local |= {} if bias is None else {"linear_bias": own.of(bias)}
            target = own.target()
            if isinstance(target, xent.SparseTarget):
                target = xent.SparseTarget(*(part.detach() for part in target))
            own_options = {n: v.detach() if torch.is_tensor(v) else v for n, v in own.options().items()}
            with xent.backend(backend):
                call = lambda **more: vocab_parallel_linear_cross_entropy(  # noqa: E731
                    local["hidden"], local["linear_weight"], target.detach() if torch.is_tensor(target) else target,
                    local_bias=local.get("linear_bias"), group=ranks, dim=dim, max_memory=SMALL, **own_options, **more,
                )  # fmt: skip
                got = measured(call, local)
                assert [kind for kind, _ in ranks.sent] == ["gather", "gather", "add"]
                with torch.no_grad():
                    _, rows = call(stats=True)
            return got | {f"rows.{name}": value for name, value in rows._asdict().items()}

        got = joined(problem, on_ranks(size, work), {"grad.linear_weight": 0, "grad.linear_bias": 0})
        rows = xent.RowStats(**{n: got.pop(f"rows.{n}") for n in xent.RowStats._fields})
        check_statistics(rows, truth, unit, problem.dtype)
        assert got["grad.hidden"].dtype == problem.dtype
        # in half dtypes each rank rounds its part of a product once, and they are summed in that dtype
        assert_within_budget(truth, got, plain, unit)


def test_every_count_of_ranks_has_an_uneven_shard():
    assert {size for size, cuts in CUTS.items() if len(cuts) == size + 1 and cuts[-1] == CLASSES} == {1, 2, 3, 4, 5}
