"""The host never waits for the GPU: no operation on the way of any loss or gradient of the column reads a value.

Every tensor here is the CPU's, told to be one that can't be read at once; kernels are left out, and a dispatch mode
sees each other operation. On a GPU test_on_a_gpu.py has torch itself raise for every wait.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import xent
from tests.functional import test_option_grid as grid
from tests.functional import test_token_logprobs as tokens
from tests.triton.conftest import ON_GPU
from tests.triton.test_cross_entropy import sampled
from xent import target_checks
from xent.backends.triton import linear_plan

pytestmark = pytest.mark.skipif(ON_GPU, reason="test_on_a_gpu.py has torch look for waits")
aten = torch.ops.aten
READS = {
    *(aten._local_scalar_dense, aten.is_nonzero, aten.equal, aten.nonzero, aten.nonzero_static, aten.masked_select),
    *(aten._unique2, aten.unique_dim, aten.unique_consecutive, aten.bincount, aten.repeat_interleave),
}
PLACED = {aten.index, aten._unsafe_index, aten.index_put, aten.index_put_, aten._index_put_impl_}


class Waited(Exception):  # noqa: N818  (what it says)
    """An operation that on a GPU has the host wait for values."""


def _waits(tensor: Tensor, *_: Any) -> Any:
    raise Waited("the host's copy of a tensor")


class NoWait(TorchDispatchMode):
    """Raises `Waited` for an operation whose result, or its shape, the host reads, and for a copy to the host."""

    def __enter__(self):
        self.copies = [patch.object(Tensor, name, _waits) for name in ("tolist", "numpy", "cpu", "__array__")]
        for copy in self.copies:
            copy.start()
        return super().__enter__()

    def __exit__(self, *error):
        for copy in self.copies:
            copy.stop()
        return super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        by_mask = func.overloadpacket in PLACED and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if func.overloadpacket in READS or by_mask:
            raise Waited(str(func))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Tensors of the CPU as the column's code would find those of a GPU: not to be read, and no kernel interpreted."""
    from triton.runtime.interpreter import GridExecutor

    monkeypatch.setattr(target_checks, "readable_at_once", lambda tensor: False)
    monkeypatch.setattr(target_checks, "_marks", {})
    monkeypatch.setattr(GridExecutor, "__call__", lambda *_, **__: None)
    # The column refuses under a dispatch mode. This one only watches.
    monkeypatch.setattr(torch._C, "_len_torch_dispatch_stack", lambda: 0)


READERS: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda x: x[0].item(),
    "bool": lambda x: bool(x[0] > 0),
    "list": lambda x: x[:1].sum().tolist(),
    "cpu": lambda x: x.cpu(),
    "numpy": lambda x: x.numpy(),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0],
    "set by mask": lambda x: x.clone().index_put_((x > 0,), torch.ones(())),
    "masked_select": lambda x: x.masked_select(x > 0),
    "equal": lambda x: torch.equal(x, x),
    "unique": lambda x: x.unique(),
    "one_hot": lambda x: torch.nn.functional.one_hot(x.long().abs()),
}


@pytest.mark.parametrize("name", READERS)
def test_a_wait_is_seen(name):
    """The test of the test."""
    with NoWait(), pytest.raises(Waited):
        READERS[name](torch.randn(4))


def backward(loss: Tensor, leaves: list[Tensor]) -> None:
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    upstream = torch.ones_like(loss)
    torch.autograd.grad(loss, wanted, upstream, retain_graph=True, allow_unused=True)
    torch.autograd.grad(loss, wanted, upstream, allow_unused=True)


def summed(loss: Tensor, rows: Any) -> Tensor:
    """All that can be differentiated in one number."""
    return loss.sum() + rows.loss.sum() + rows.lse.sum() + rows.entropy.sum() + rows.z_loss.sum()


def checked(run: Callable[[], Tensor], leaves: list[Tensor]) -> None:
    """Forward and backward, without the check of targets and with it."""
    for on in (False, True):
        before = xent.check_targets(on)
        try:
            with xent.backend("triton"), NoWait():
                backward(run(), leaves)
        finally:
            xent.check_targets(before)


def frozen(problem: grid.Problem) -> None:
    """Only what comes beside the terms requires a gradient: the kernels make it, not the reference formula."""
    for leaf in problem.leaves().values():
        leaf.requires_grad_(False)


@pytest.mark.parametrize("chosen", sampled(grid.GRID, 3), ids=grid.id_of)
def test_losses_of_every_pair_of_options(chosen, as_on_a_gpu):
    for all_leaves in (True, False):
        problem = grid.Problem(chosen)
        input, options = problem.logits(), {**problem.options, "dim": problem.class_dim}
        leaves = list(problem.leaves(input=input).values())
        if not all_leaves:
            frozen(problem)
        checked(lambda x=input, p=problem, o=options: xent.cross_entropy(x, p.target, **o), leaves)
        checked(lambda x=input, p=problem, o=options: summed(*xent.cross_entropy(x, p.target, stats=True, **o)), leaves)


MEMORY = {"whole": None, "one row at a time": 45, "no logits": 1}


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("chosen", sampled(grid.GRID, 6), ids=grid.id_of)
def test_linear_losses_of_every_pair_of_options(chosen, memory, as_on_a_gpu, monkeypatch):
    if memory == "no logits" and chosen["layout"] == "NCde":
        return  # K-dimensional logits are held
    monkeypatch.setattr(linear_plan, "_FEWEST", 10**9 if memory == "no logits" else 1)
    for all_leaves in (True, False):
        problem = grid.Problem(chosen)
        hidden, head, bias = problem.head()
        options = {**problem.options, "dim": -1 if problem.class_dim is None else problem.class_dim}
        options |= {"linear_bias": bias, "max_memory": None if chosen["layout"] == "NCde" else MEMORY[memory]}
        leaves = list(problem.leaves(hidden=hidden, linear_weight=head, linear_bias=bias).values())
        if not all_leaves:
            frozen(problem)

        def loss(given=(hidden, head, problem.target), options=options) -> Tensor:
            return xent.linear_cross_entropy(*given, **options)

        checked(loss, leaves)
        checked(lambda loss=loss, options=options: summed(*loss(options={**options, "stats": True})), leaves)


@pytest.mark.parametrize(("linear", "entropy", "top"), list(product((False, True), (False, True), (0, 3))))
def test_log_probabilities(linear, entropy, top, as_on_a_gpu):
    for options in tokens.OPTIONS:
        x = tokens.normal(tokens.N, tokens.T, tokens.D if linear else tokens.C).requires_grad_()
        head = tokens.normal(tokens.C, tokens.D).requires_grad_() if linear else None

        def scores(x=x, head=head, options=options) -> Tensor:
            target = tokens.tokens() if "ignore_index" not in options else tokens.tokens().clamp(min=0)
            found = xent.token_logprobs(x, target, linear_weight=head, dim=-1, entropy=entropy, top=top, **options)
            parts = (found,) if isinstance(found, Tensor) else (found.logprob, found.entropy, found.top_logprobs)
            return torch.stack([part.sum() for part in parts if part is not None]).sum()

        checked(scores, [leaf for leaf in (x, head) if leaf is not None])


def test_the_other_losses(as_on_a_gpu):
    for shape, dtype in (((6, 5), torch.bfloat16), ((2, 5, 3), torch.float32)):
        x = torch.randn(shape).to(dtype).requires_grad_()
        checked(lambda x=x: xent.log_softmax(x, 1), [x])
        for dims, keepdim in ((1, False), (-1, True), ((0, 1), False)):
            checked(lambda x=x, dims=dims, keepdim=keepdim: xent.logsumexp(x, dims, keepdim), [x])
        weights = {"weight": torch.ones(shape), "pos_weight": torch.ones(shape[-1])}
        for options in ({}, weights, {"reduction": "none"}):
            checked(lambda x=x, o=options: xent.binary_cross_entropy_with_logits(x, torch.ones(x.shape), **o), [x])
