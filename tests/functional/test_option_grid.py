"""Any combination of options, on cross_entropy and linear_cross_entropy: values, gradients and statistics.

The full product has some hundred thousand members. `GRID` is a sample in which every pair of settings of two options
occurs that can occur (a test asserts it): a mistake in how two options act on each other shows in a pair.
"""

from __future__ import annotations

import random
from itertools import combinations

import numpy as np
import pytest
import torch

import xent
from tests import oracle
from tests.edge_cases import BACKENDS_HERE, running_on
from tests.functional.budget import (
    assert_within_budget,
    leaf,
    measured,
    plain_cross_entropy,
    stats_dtype,
    upstream_for,
)

SETTINGS = {
    "layout": ("NC", "NCT", "NTC", "CN", "C", "NCde"),  # NCde: K-dimensional linear_weight
    "dtype": (torch.float64, torch.float32, torch.bfloat16, torch.float16),
    "target": ("hard", "soft", "sparse"),
    "ignore": ("none", "some", "in range"),
    "weight": (False, True),
    "row_weight": ("none", "rows", "broadcast", "negative"),
    "label_smoothing": (0.0, 0.1, 1.0),
    "z_loss": (0.0, 0.01),
    "softcap": (None, 5.0),
    "logit_scale": (1.0, 0.5),
    "reduction": ("mean", "sum", "none", "number", "tensor"),
    "shift": (0, 1),
    "bias": (False, True),
}
SHAPE = {"NC": (6,), "NCT": (2, 3), "NTC": (2, 3), "CN": (6,), "C": (), "NCde": (3, 2, 2)}  # of the rows
CLASS_DIM = {"NC": None, "NCT": 1, "NTC": -1, "CN": 0, "C": None, "NCde": None}
CLASSES, FEATURES = 5, 4


def possible(chosen: dict) -> bool:
    """Whether settings may stand together; the others are errors, pinned in test_errors.py."""
    if chosen.get("target") == "soft" and chosen.get("ignore", "none") != "none":
        return False
    if chosen.get("target") == "sparse" and chosen.get("layout") == "NCde":
        return False
    return not (chosen.get("shift") and chosen.get("layout") in ("C", "NCde"))


def wanted_pairs() -> set:
    return {
        ((a, x), (b, y))
        for a, b in combinations(SETTINGS, 2)
        for x in SETTINGS[a]
        for y in SETTINGS[b]
        if possible({a: x, b: y})
    }


def pairs_of(chosen: dict) -> set:
    return {((a, chosen[a]), (b, chosen[b])) for a, b in combinations(SETTINGS, 2)}


def pairwise(seed: int = 538, candidates: int = 40) -> list[dict]:
    """Greedy: of some random combinations take the one with most pairs that are still missing."""
    draw, missing, grid = random.Random(seed), wanted_pairs(), []
    while missing:
        offered = []
        must = dict(min(missing, key=repr))
        while len(offered) < candidates:
            chosen = {name: draw.choice(values) for name, values in SETTINGS.items()} | must
            if possible(chosen):
                offered.append(chosen)
        best = max(offered, key=lambda chosen: len(pairs_of(chosen) & missing))
        missing -= pairs_of(best)
        grid.append(best)
    return grid


GRID = pairwise()


def id_of(chosen: dict) -> str:
    return "-".join(str(value).removeprefix("torch.") for value in chosen.values())


def test_every_possible_pair_of_settings_occurs():
    assert wanted_pairs() <= set().union(*map(pairs_of, GRID))
    assert all(map(possible, GRID))


class Problem:
    """Tensors and options of one combination."""

    def __init__(self, chosen: dict) -> None:
        self.generator = torch.Generator().manual_seed(GRID.index(chosen))
        self.chosen, self.dtype, self.rows = chosen, chosen["dtype"], SHAPE[chosen["layout"]]
        self.class_dim = CLASS_DIM[chosen["layout"]]
        self.target = self._target()
        self.dense = (
            self._dense() if isinstance(self.target, xent.SparseTarget) else self.target
        )  # what the truth reads
        self.options = {name: chosen[name] for name in ("label_smoothing", "z_loss", "softcap", "logit_scale", "shift")}
        self.options |= {"reduction": chosen["reduction"]} if chosen["reduction"] in ("mean", "sum", "none") else {}
        self.options |= {"number": {"normalizer": 7.0}, "tensor": {"normalizer": torch.tensor([7.0])}}.get(
            chosen["reduction"], {}
        )
        self.options |= {"ignore_index": 1} if chosen["ignore"] == "in range" else {}
        self.options |= {"weight": leaf(self.uniform(CLASSES))} if chosen["weight"] else {}
        self.options |= self._row_weight()

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64).to(self.dtype)

    def uniform(self, *shape: int) -> torch.Tensor:
        return (0.5 + torch.rand(shape, generator=self.generator, dtype=torch.float64)).to(self.dtype)

    def _target(self) -> torch.Tensor | xent.SparseTarget:
        if self.chosen["target"] == "sparse":
            return self._sparse()
        if self.chosen["target"] == "soft":
            soft = self.normal(*self.rows, CLASSES).double().softmax(-1).to(self.dtype)
            return leaf(soft.movedim(-1, self._dim()))
        labels = torch.randint(2, CLASSES, self.rows, generator=self.generator)
        if self.chosen["ignore"] != "none" and self.rows:
            labels.view(-1)[::4] = -100 if self.chosen["ignore"] == "some" else 1
        return labels

    def _sparse(self) -> xent.SparseTarget:
        """Three entries a row: the last is a class again, or padding whose probability must not be read."""
        indices = torch.randint(2, CLASSES, (*self.rows, 3), generator=self.generator)
        indices[..., 2] = {"none": indices[..., 0], "some": -100, "in range": 1}[self.chosen["ignore"]]
        probabilities = self.uniform(*self.rows, 3) / 4
        if self.chosen["ignore"] != "none":
            probabilities[..., 2] = torch.nan
        return xent.SparseTarget(indices, leaf(probabilities))

    def _dense(self) -> torch.Tensor:
        indices, probabilities = (part.detach() for part in self.target)
        if self.chosen["ignore"] != "none":
            indices, probabilities = indices[..., :2], probabilities[..., :2]
        dense = torch.zeros(*self.rows, CLASSES, dtype=torch.float64).scatter_add(-1, indices, probabilities.double())
        return dense.movedim(-1, self._dim()).requires_grad_()

    def truth_options(self, options: dict) -> oracle.Options:
        return oracle.Options(**self.plain_options(options))

    def plain_options(self, options: dict) -> dict:
        """A dense target has nothing to ignore."""
        if self.dense is self.target:
            return options
        return {name: value for name, value in options.items() if name != "ignore_index"}

    def at_entries(self, dense: torch.Tensor) -> torch.Tensor:
        """The gradient of a dense target as that of the entries: 0 for padding."""
        moved = dense.movedim(self._dim(), -1)
        padding = self.target.indices == self.options.get("ignore_index", -100)
        picked = moved.gather(-1, self.target.indices.masked_fill(padding, 0))
        return picked.masked_fill(padding, 0)

    def with_entries(self, truth: oracle.Truth, plain: dict) -> None:
        if self.dense is not self.target:
            of_target = truth.figures["grad.target"]
            parts = (torch.from_numpy(np.array(part)) for part in (of_target.value, of_target.magnitude))
            truth.figures["grad.probabilities"] = oracle.Figure(*(self.at_entries(part).numpy() for part in parts))
            plain["grad.probabilities"] = self.at_entries(plain["grad.target"])

    def _dim(self) -> int:
        return min(len(self.rows), 1) if self.class_dim is None else self.class_dim

    def _row_weight(self) -> dict:
        kind = self.chosen["row_weight"]
        if kind == "none":
            return {}
        shape = (*self.rows[:-1], 1) if kind == "broadcast" and self.rows else self.rows
        weight = self.uniform(*shape)
        if kind == "negative" and self.rows:
            weight.view(-1)[1] *= -0.25  # small, so that the mean's denominator stays away from 0
        return {"row_weight": leaf(weight)}

    def logits(self) -> torch.Tensor:
        return leaf((3 * self.normal(*self.rows, CLASSES)).movedim(-1, self._dim()))

    def head(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Hidden states, linear_weight, linear_bias."""
        extra = self.rows[1:] if self.chosen["layout"] == "NCde" else ()
        rows = self.rows[: len(self.rows) - len(extra)]
        hidden = self.normal(*rows, FEATURES).movedim(-1, -1 if self.class_dim is None else self.class_dim)
        bias = leaf(self.normal(CLASSES, *extra)) if self.chosen["bias"] else None
        return leaf(hidden), leaf(self.normal(CLASSES, *extra, FEATURES)), bias

    def leaves(self, **more: torch.Tensor | None) -> dict[str, torch.Tensor]:
        own = {"probabilities": self.target.probabilities} if self.dense is not self.target else {"target": self.target}
        named = {**own, **{k: self.options.get(k) for k in ("weight", "row_weight")}, **more}
        return {name: tensor for name, tensor in named.items() if tensor is not None}


def check_statistics(rows, truth: oracle.Truth, unit: float, dtype: torch.dtype) -> None:
    got = {f"rows.{n}": getattr(rows, n) for n in ("loss", "lse", "entropy", "z_loss", "weight")}
    assert all(value.dtype == stats_dtype(dtype) for value in got.values())
    assert_within_budget(truth, got, {}, unit)


@pytest.mark.parametrize("chosen", GRID, ids=id_of)
@pytest.mark.parametrize("backend", BACKENDS_HERE)
def test_cross_entropy(backend, chosen):
    problem = Problem(chosen)
    input, target, options = problem.logits(), problem.target, {**problem.options, "dim": problem.class_dim}
    leaves = problem.leaves(input=input)
    with running_on(backend, "cross_entropy", input):
        got = measured(lambda: xent.cross_entropy(input, target, **options), leaves)
        loss, rows = xent.cross_entropy(input, target, stats=True, **options)
    # K-dimensional logits take another loop with statistics, whose sums have another order: a rounding or two of a term
    torch.testing.assert_close(loss, got["loss"], rtol=4 * torch.finfo(loss.dtype).eps, atol=1e-15, equal_nan=True)
    plain_leaves = {**{k: v for k, v in leaves.items() if k != "probabilities"}, "target": problem.dense}
    plain = measured(lambda: plain_cross_entropy(input, problem.dense, problem.plain_options(options)), plain_leaves)
    upstream = upstream_for(tuple(loss.shape), torch.float64)
    truth = oracle.cross_entropy(input, problem.dense, problem.truth_options(options), upstream)
    problem.with_entries(truth, plain)
    unit = torch.finfo(stats_dtype(problem.dtype)).eps
    assert got["loss"].dtype == stats_dtype(problem.dtype)
    assert all(got[f"grad.{name}"].dtype == t.dtype for name, t in leaves.items() if f"grad.{name}" in got)
    assert_within_budget(truth, got, plain, unit)
    check_statistics(rows, truth, 2 * unit, problem.dtype)


@pytest.mark.parametrize("chosen", GRID, ids=id_of)
@pytest.mark.parametrize("backend", BACKENDS_HERE)
def test_linear_cross_entropy(backend, chosen):
    problem = Problem(chosen)
    (hidden, head, bias), target = problem.head(), problem.target
    dim = -1 if problem.class_dim is None else problem.class_dim
    options = {**problem.options, "dim": dim}
    leaves = problem.leaves(hidden=hidden, linear_weight=head, linear_bias=bias)
    with running_on(backend, "linear_cross_entropy", hidden):
        got = measured(lambda: xent.linear_cross_entropy(hidden, head, target, linear_bias=bias, **options), leaves)
        loss, rows = xent.linear_cross_entropy(hidden, head, target, linear_bias=bias, stats=True, **options)
    # K-dimensional logits take another loop with statistics, whose sums have another order: a rounding or two of a term
    torch.testing.assert_close(loss, got["loss"], rtol=4 * torch.finfo(loss.dtype).eps, atol=1e-15, equal_nan=True)
    upstream = upstream_for(tuple(loss.shape), torch.float64)
    truth = oracle.linear_cross_entropy(hidden, head, problem.dense, problem.truth_options(options), bias, upstream)
    plain_leaves = {**{k: v for k, v in leaves.items() if k != "probabilities"}, "target": problem.dense}
    plain = plain_linear(hidden, head, problem.dense, bias, problem.plain_options(options), plain_leaves)
    problem.with_entries(truth, plain)
    # The logits are rounded to the dtype of hidden, whatever is computed from them.
    unit = torch.finfo(problem.dtype).eps
    assert got["loss"].dtype == stats_dtype(problem.dtype)
    assert all(got[f"grad.{name}"].dtype == t.dtype for name, t in leaves.items() if f"grad.{name}" in got)
    assert_within_budget(truth, got, plain, unit)
    check_statistics(rows, truth, unit, problem.dtype)


def plain_linear(hidden, head, target, bias, options, leaves) -> dict[str, torch.Tensor]:
    dim, extra = options["dim"] % hidden.ndim, head.shape[1:-1]

    def loss() -> torch.Tensor:
        logits = torch.nn.functional.linear(
            hidden.movedim(dim, -1), head.flatten(0, -2), None if bias is None else bias.flatten()
        )
        if extra:
            return plain_cross_entropy(logits.unflatten(-1, head.shape[:-1]), target, {**options, "dim": 1})
        return plain_cross_entropy(logits.movedim(-1, dim), target, {**options, "dim": dim})

    return measured(loss, leaves)
