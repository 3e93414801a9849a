"""What training loops wrap around a loss: autocast, checkpointing, inputs that must stay as they are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from tests import oracle
from tests.functional.budget import assert_within_budget
from torch.utils.checkpoint import checkpoint

import xent
from xent.backends.native.linear_plan import Plan

TARGET = torch.tensor([0, 3, -100, 2])
SPARSE = xent.SparseTarget(torch.tensor([[0, 1], [3, -100], [-100, -100], [2, 2]]), torch.full((4, 2), 0.4))
HEAD = torch.randn(6, 5, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_autocast_gives_a_float32_loss_and_gradients_in_the_parameters_dtype(half: torch.dtype) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(4, 8), torch.randn(5, 8, requires_grad=True)
    with torch.autocast("cpu", half):
        loss = xent.linear_cross_entropy(hidden, weight, TARGET)
        same = xent.cross_entropy(F.linear(hidden, weight), TARGET)
    assert loss.dtype == same.dtype == torch.float32
    torch.testing.assert_close(loss, same, rtol=0, atol=0)
    loss.backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32


def figures(loss: torch.Tensor, leaves: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The loss and the gradients of its leaves, by the names of the oracle."""
    grads = torch.autograd.grad(loss, list(leaves.values()))
    return {"loss": loss.detach(), **{f"grad.{name}": grad for name, grad in zip(leaves, grads, strict=True)}}


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("by", ["rows", "classes"])
def test_autocast_on_the_kernels_is_within_the_budget_of_the_reference(
    half: torch.dtype, dtype: torch.dtype, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The truth is that of the tensors that autocast rounds to half; both are judged in units of that."""
    kernel = pytest.importorskip("xent.backends.native.linear_cross_entropy", reason="no native column")
    cut = {"rows": Plan("rows", 2, 0, 0, 0.0), "classes": Plan("classes", 16, 1, 0, 0.0)}[by]
    monkeypatch.setattr(kernel, "plan", lambda size, bound, *, with_gradient: cut)
    draw = torch.Generator().manual_seed(0)
    shapes = {"hidden": (4, 8), "linear_weight": (45, 8), "linear_bias": (45,)}
    leaves = {name: torch.randn(shape, generator=draw).to(dtype).requires_grad_() for name, shape in shapes.items()}
    hidden, weight, bias = leaves.values()
    found = {}
    for backend in ("native", "reference"):
        with torch.autocast("cpu", half), xent.backend(backend):
            assert xent.choices(hidden, weight, operation="linear_cross_entropy").chosen == backend
            loss = xent.linear_cross_entropy(hidden, weight, TARGET, linear_bias=bias, z_loss=0.1)
        found[backend] = figures(loss, leaves)
    assert loss.dtype == torch.float32
    assert all(found["native"][f"grad.{name}"].dtype == dtype for name in leaves)
    rounded = [x.detach().to(half) for x in (hidden, weight)]
    truth = oracle.linear_cross_entropy(*rounded, TARGET, oracle.Options(z_loss=0.1), bias.detach().to(half))
    assert_within_budget(truth, found["native"], found["reference"], torch.finfo(half).eps)


def test_autocast_leaves_float64_and_its_own_opposite_alone() -> None:
    """As F.linear: no cast of float64, none where a block inside turns autocast off, none in a later backward."""
    hidden, weight = torch.randn(4, 8, requires_grad=True), torch.randn(45, 8, requires_grad=True)
    leaves = {"hidden": hidden, "weight": weight}
    plain = figures(xent.linear_cross_entropy(hidden, weight, TARGET, normalizer=3), leaves)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.autocast("cpu", enabled=False):
            loss = xent.linear_cross_entropy(hidden, weight, TARGET, normalizer=3)
        inside = figures(loss, leaves)
        wide = xent.linear_cross_entropy(hidden.double(), weight.double(), TARGET)
        with pytest.raises(xent.errors.DtypeError, match="autocast leaves float64 alone"):
            xent.linear_cross_entropy(hidden.double(), weight, TARGET)
    for name, value in plain.items():
        assert torch.equal(inside[name], value), name
    assert wide.dtype == torch.float64
    torch.testing.assert_close(wide, F.cross_entropy(hidden.double() @ weight.double().T, TARGET))


def test_a_choice_under_autocast_speaks_of_the_half_tensors() -> None:
    hidden, weight = torch.empty(1).expand(2048, 768), torch.empty(1).expand(50257, 768)
    target = torch.zeros(2048, dtype=torch.long)
    half = xent.choices(hidden.bfloat16(), weight.bfloat16(), operation="linear_cross_entropy").note
    with torch.autocast("cpu", torch.bfloat16):
        assert xent.choices(hidden, weight, operation="linear_cross_entropy").note == half
        scored = xent.choices(hidden, target, operation="token_logprobs", linear_weight=weight)
    assert scored.note == half


def test_scores_under_autocast_are_those_of_half_tensors() -> None:
    hidden, weight = torch.randn(4, 8), torch.randn(45, 8)
    with torch.autocast("cpu", torch.bfloat16):
        got = xent.token_logprobs(hidden, TARGET, linear_weight=weight, entropy=True, top=3)
    want = xent.token_logprobs(hidden.bfloat16(), TARGET, linear_weight=weight.bfloat16(), entropy=True, top=3)
    for one, other in zip(got, want, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize(
    "score",
    [
        lambda x: xent.cross_entropy(x, TARGET, z_loss=0.1),
        lambda x: xent.cross_entropy(x, SPARSE, z_loss=0.1),
        lambda x: xent.linear_cross_entropy(x, HEAD, TARGET),
        lambda x: xent.linear_cross_entropy(x, HEAD, SPARSE, reduction="none").sum(),
        lambda x: xent.token_logprobs(x, TARGET, linear_weight=HEAD, top=2).top_logprobs.sum(),
    ],
    ids=["", "sparse", "linear", "linear-sparse", "top"],
)
def test_activation_checkpointing_gives_the_same_gradient(reentrant: bool, score: Callable[..., torch.Tensor]) -> None:
    logits = torch.randn(4, 5, requires_grad=True)
    (plain,) = torch.autograd.grad(score(logits), logits)
    loss = checkpoint(score, logits, use_reentrant=reentrant)
    loss.backward()
    torch.testing.assert_close(logits.grad, plain, rtol=0, atol=0)


def test_inputs_are_never_modified() -> None:
    torch.manual_seed(0)
    logits, weight, row_weight = torch.randn(4, 5, requires_grad=True), torch.rand(5), torch.rand(4)
    target = TARGET.clone()
    tensors = (logits, target, weight, row_weight)
    before = [(tensor.detach().clone(), tensor._version) for tensor in tensors]
    xent.cross_entropy(
        logits, target, weight, row_weight=row_weight, label_smoothing=0.1, softcap=2.0, z_loss=0.1, logit_scale=2.0
    ).backward()
    for tensor, (value, version) in zip(tensors, before, strict=True):
        assert torch.equal(tensor, value)
        assert tensor._version == version


def test_the_global_random_state_is_untouched() -> None:
    state = torch.get_rng_state()
    xent.cross_entropy(torch.ones(4, 5), TARGET)
    assert torch.equal(torch.get_rng_state(), state)


def test_logits_are_viewed_not_copied() -> None:
    """A (N, C, T) problem and a transposed one reach the backend as views of the caller's memory."""
    from xent.problem import rows_of
    from xent.terms import LossTerms

    logits = torch.randn(2, 3, 7)
    for tensor, dim in ((logits, 1), (logits.transpose(1, 2), -1), (logits, -1)):
        target = torch.zeros(tensor.movedim(dim, -1).shape[:-1], dtype=torch.long)
        rows = rows_of(tensor, target, LossTerms(), dim, shift=1)
        assert rows.logits.untyped_storage().data_ptr() == logits.untyped_storage().data_ptr()
