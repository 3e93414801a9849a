"""What torch.compile is told of the operations is what they give: shapes, dtypes, strides, and the device of a GPU.

A graph for a GPU is made of fake tensors on "cuda", which need none. Each operation that a loss calls in a graph is
called here for real, its kernels left out, and again on such tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import xent
from tests.functional import test_option_grid as grid
from tests.triton.conftest import ON_GPU
from tests.triton.test_cross_entropy import sampled
from tests.triton.test_no_wait import as_on_a_gpu, frozen
from xent.backends.triton import linear_plan

__all__ = ["as_on_a_gpu"]
pytestmark = pytest.mark.skipif(ON_GPU, reason="test_on_a_gpu.py compiles graphs for real")
OPERATIONS = {
    *("cross_entropy_rows", "cross_entropy_gradient", "linear_rows", "linear_gradients", "linear_rows_and_gradients"),
    *("log_softmax_rows", "log_softmax_gradient", "logsumexp_rows", "logsumexp_gradient"),
    *("binary_elements", "binary_elements_gradient"),
}


class Recorded(TorchDispatchMode):
    """The calls of our operations: which, with what, and what came out."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.namespace == "xent":
            self.calls.append((func, args, result))
        return result


def on_a_fake_gpu(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cuda")


def layout(tensor: Tensor) -> tuple[Any, ...]:
    """Shape, dtype and strides; that of a dimension of one place says nothing."""
    strides = [stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size != 1]
    return tuple(tensor.shape), tensor.dtype, strides


def told_right(run: Callable[[], Tensor], leaves: list[Tensor], monkeypatch) -> set[str]:
    """Run forward and backward as in a graph; then every operation of it on a fake GPU. The operations."""
    with xent.backend("triton"), monkeypatch.context() as patched, Recorded() as recorded:
        patched.setattr(torch.compiler, "is_compiling", lambda: True)
        loss = run()
        torch.autograd.grad(loss, leaves, torch.ones_like(loss))
    for operation, arguments, real in recorded.calls:
        with FakeTensorMode():
            told = operation(*pytree.tree_map(on_a_fake_gpu, arguments))
        for fake, tensor in zip(pytree.tree_leaves(told), pytree.tree_leaves(real), strict=True):
            assert fake.device.type == "cuda", operation
            assert layout(fake) == layout(tensor), operation
    return {operation.name().removeprefix("xent::") for operation, _, _ in recorded.calls}


@pytest.mark.parametrize("chosen", sampled(grid.GRID, 3), ids=grid.id_of)
def test_losses_of_every_pair_of_options(chosen, as_on_a_gpu, monkeypatch):
    problem = grid.Problem(chosen)
    frozen(problem)
    input, target = problem.logits(), problem.target
    options = {**problem.options, "dim": problem.class_dim}
    told_right(lambda: xent.cross_entropy(input, target, **options), [input], monkeypatch)
    told_right(lambda: xent.cross_entropy(input, target, stats=True, **options)[1].entropy, [input], monkeypatch)
    hidden, head, bias = problem.head()
    leaves = [leaf for leaf in (hidden, head, bias) if leaf is not None]
    options |= {"dim": -1 if problem.class_dim is None else problem.class_dim, "linear_bias": bias}
    told_right(lambda: xent.linear_cross_entropy(hidden, head, target, **options), leaves, monkeypatch)
    if chosen["layout"] != "NCde":
        monkeypatch.setattr(linear_plan, "_FEWEST", 10**9)
        options["max_memory"] = 1
        told_right(lambda: xent.linear_cross_entropy(hidden, head, target, **options), leaves, monkeypatch)


@pytest.mark.parametrize("shape", [(6, 5), (2, 5, 3), (5, 2, 3, 4)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_the_other_losses(shape, dtype, as_on_a_gpu, monkeypatch):
    x = torch.randn(shape).to(dtype)
    for given in (x, x.mT, x[::2]):
        leaf = given.detach().requires_grad_()
        told_right(lambda leaf=leaf: xent.log_softmax(leaf, 1), [leaf], monkeypatch)
        told_right(lambda leaf=leaf: xent.logsumexp(leaf, 1), [leaf], monkeypatch)
        told_right(
            lambda leaf=leaf: xent.binary_cross_entropy_with_logits(leaf, torch.ones(leaf.shape)), [leaf], monkeypatch
        )


def test_every_operation_is_called(as_on_a_gpu, monkeypatch):
    """By the functions that the tests above call: none is told of by nobody."""
    x, y = torch.randn(6, 5, requires_grad=True), torch.tensor([0, 1, 2, 3, 4, -100])
    losses: list[Callable[[], Tensor]] = [
        lambda: xent.cross_entropy(x, y),
        lambda: xent.linear_cross_entropy(x, torch.eye(5), y),
        lambda: xent.linear_cross_entropy(x, torch.eye(5), y, reduction="none"),
        lambda: xent.log_softmax(x, 1),
        lambda: xent.logsumexp(x, 1),
        lambda: xent.binary_cross_entropy_with_logits(x, torch.ones(6, 5)),
    ]
    assert set().union(*(told_right(loss, [x], monkeypatch) for loss in losses)) == OPERATIONS
