"""What autograd, loss scalers and odd memory ask of the linear loss on the Triton column."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import xent
from tests.triton.conftest import ON_GPU
from tests.triton.test_no_wait import as_on_a_gpu
from xent.backends.triton import linear_cross_entropy, linear_plan

__all__ = ["as_on_a_gpu"]
N, D, C = 6, 4, 5
TARGET = torch.tensor([0, 3, -100, 2, 4, 1])
MEMORY = {"in chunks": None, "no logits": 1}
on_a_cpu = pytest.mark.skipif(ON_GPU, reason="its tensors are the CPU's")


def layer(dtype: torch.dtype = torch.float32, count: int = N) -> list[Tensor]:
    """Hidden states, weight and bias."""
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=draw).to(dtype).requires_grad_() for shape in ((count, D), (C, D), (C,))]


def loss_of(leaves: list[Tensor], **options) -> Tensor:
    hidden, weight, bias = leaves
    with xent.backend("triton"):
        return xent.linear_cross_entropy(hidden, weight, TARGET, linear_bias=bias, **options)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("memory", MEMORY)
def test_row_weights_get_their_gradient_where_nothing_else_of_the_terms_does(reduction, memory):
    """Sum and mean make gradients in the forward pass for upstreams that are constants: a row weight is none."""
    found = []
    for name, dtype in (("triton", torch.float32), ("reference", torch.float64)):
        given, row_weight = layer(), torch.linspace(0.5, 1.5, N, dtype=dtype).requires_grad_()
        hidden, weight, bias = (x.detach().to(dtype).requires_grad_() for x in given)
        bound = MEMORY[memory] if name == "triton" else None
        with xent.backend(name):
            loss = xent.linear_cross_entropy(
                hidden, weight, TARGET, linear_bias=bias, row_weight=row_weight, reduction=reduction, max_memory=bound
            )
        found.append(torch.autograd.grad(loss, (row_weight, hidden, weight)))
    for got, true in zip(*found, strict=True):
        torch.testing.assert_close(got.double(), true, rtol=1e-5, atol=1e-6)  # float32 sums of six rows


def test_activation_checkpointing():
    """It makes saved tensors again for the first who reads them, and raises for a second."""
    leaves = layer()
    again = checkpoint(loss_of, leaves, use_reentrant=False)
    for got, wanted in zip(
        torch.autograd.grad(again, leaves), torch.autograd.grad(loss_of(leaves), leaves), strict=True
    ):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("memory", MEMORY)
def test_float16_gradients_do_not_overflow_on_their_way(memory):
    """300 rows of 500: their sum, −120000, is beyond float16; their mean, −400, is not, nor 64 times that."""
    hidden = torch.full((300, 8), 500.0).half()
    weight, bias = torch.zeros(C, 8).half().requires_grad_(), torch.zeros(C).half().requires_grad_()
    with xent.backend("triton"):
        loss = xent.linear_cross_entropy(
            hidden, weight, torch.zeros(300).long(), linear_bias=bias, max_memory=MEMORY[memory]
        )
    for scale in (1.0, 64.0):
        of_weight, of_bias = torch.autograd.grad(loss, (weight, bias), torch.tensor(scale), retain_graph=True)
        wanted = scale * torch.tensor([-0.8, 0.2, 0.2, 0.2, 0.2])
        torch.testing.assert_close(of_bias.float(), wanted, rtol=2**-9, atol=0)  # two roundings to float16
        torch.testing.assert_close(of_weight.float(), (500 * wanted)[:, None].expand(C, 8), rtol=2**-9, atol=0)


@on_a_cpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_graph_scales_gradients_as_eager_does(dtype, monkeypatch):
    """By the float32 factor: 1/3 as a bfloat16 is 0.2 % off, 65536 as a float16 infinite."""
    for factor in (1 / 3, 65536.0 if dtype == torch.float16 else 0.7):
        found = []
        for in_a_graph in (False, True):
            leaves = [leaf.detach().mul(0.1).requires_grad_() for leaf in layer(dtype)]
            with monkeypatch.context() as patched:
                patched.setattr(torch.compiler, "is_compiling", lambda to=in_a_graph: to)
                made = torch.autograd.grad(loss_of(leaves), leaves, torch.tensor(factor))
            found.append(made)
        for eager, graph in zip(*found, strict=True):
            assert torch.equal(eager, graph)
            assert graph.isfinite().all()


def test_odd_memory_and_no_logits():
    """A bias whose entries lie apart, a weight that is a part of a wider one, shifted rows."""
    wide, apart = torch.randn(C, 2 * D), torch.randn(2 * C)
    leaves = [torch.randn(2, 4, D), wide[:, :D], apart[::2]]
    target = torch.tensor([[0, 1, 2, 3], [4, 3, 2, 1]])
    found = []
    for name in ("triton", "reference"):
        hidden, weight, bias = (leaf.detach().requires_grad_() for leaf in leaves)
        with xent.backend(name):
            bound = {"max_memory": 1} if name == "triton" else {}
            loss = xent.linear_cross_entropy(hidden, weight, target, linear_bias=bias, shift=1, **bound)
        found.append((loss.detach(), *torch.autograd.grad(loss, (hidden, weight, bias))))
    for got, wanted in zip(*found, strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("memory", MEMORY)
def test_the_gradient_of_a_bias_alone_and_of_no_features(memory):
    hidden, weight, bias = layer()
    (alone,) = torch.autograd.grad(
        loss_of([hidden.detach(), weight.detach(), bias], max_memory=MEMORY[memory]), bias
    )  # fmt: skip
    torch.testing.assert_close(alone, torch.autograd.grad(loss_of([hidden, weight, bias]), bias)[0])
    nothing = [torch.zeros(N, 0), torch.zeros(C, 0), torch.zeros(C, requires_grad=True)]
    loss = loss_of(nothing, max_memory=MEMORY[memory])
    torch.testing.assert_close(loss, torch.tensor(5.0).log())
    (of_bias,) = torch.autograd.grad(loss, nothing[2])
    torch.testing.assert_close(of_bias, torch.zeros(C))  # each class is the target once, of five rows


class Largest(TorchDispatchMode):
    """Bytes of the largest memory that was made."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = {x.untyped_storage().data_ptr() for x in (*args, *(kwargs or {}).values()) if isinstance(x, Tensor)}
        if isinstance(result, Tensor) and not result.is_meta:
            storage = result.untyped_storage()
            self.bytes = max(self.bytes, 0 if storage.data_ptr() in given else storage.nbytes())
        return result


BIG = {"hidden": (2, 500, 64), "weight": (2000, 64), "bias": (2000,)}
CUTS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "frozen weight": lambda h, w, b, y: xent.linear_cross_entropy(h, w, y, linear_bias=b, max_memory=1),
    "part of a wider weight": lambda h, w, b, y: xent.linear_cross_entropy(h, w[:, :32], y, max_memory=1, dim=-1),
    "shifted": lambda h, w, b, y: xent.linear_cross_entropy(h, w[:100], y, shift=1, max_memory=100_000),
}


@on_a_cpu
@pytest.mark.parametrize("name", CUTS)
def test_nothing_is_made_that_the_plan_does_not_count(name, as_on_a_gpu):
    """No room for a gradient that nobody asked for, no copy of a weight, hidden states of a chunk at a time."""
    hidden, weight, bias = (torch.randn(shape) for shape in BIG.values())
    hidden = hidden[..., :32].contiguous() if name == "part of a wider weight" else hidden
    if name == "frozen weight":
        bias.requires_grad_()
    with xent.backend("triton"), Largest() as largest:
        loss = CUTS[name](hidden, weight, bias, torch.zeros(2, 500, dtype=torch.int64))
        if loss.requires_grad:
            loss.backward()
    most = 100_000 if name == "shifted" else 64_000  # numbers of 1000 rows; hidden states are 128,000 and more
    assert 0 < largest.bytes < most


def test_a_plan_counts_the_copies_of_a_chunk_and_the_sums_of_a_bias():
    shifted = torch.empty(4, 100, 64, dtype=torch.bfloat16)[:, 1:]
    assert linear_plan.beside_of(torch.empty(4, 100, 64), None, None) == linear_plan.Beside()
    assert linear_plan.beside_of(torch.empty(1, 100, 64)[:, 1:], None, None) == linear_plan.Beside()
    assert linear_plan.beside_of(shifted, None, None).row >= 64 * 2
    assert linear_plan.beside_of(shifted, None, torch.empty(4, 100, 9)[:, 1:]).row >= 64 * 2 + 9 * 4
    for dtype, size in ((torch.float32, 4), (torch.bfloat16, 8), (torch.float64, 8)):
        bias = torch.empty(10, dtype=dtype)
        assert linear_plan.beside_of(torch.empty(4, 64), bias, None) == linear_plan.Beside(0, 10 * size)
    free, counted = (linear_plan.plan(1000, 50, 4, 100_000, beside=b) for b in (None, linear_plan.Beside(100, 5000)))
    assert counted.rows * (50 * 4 + 100) + 5000 + 1000 * 40 <= 100_000
    assert counted.rows < free.rows


def test_log_probabilities_without_logits_have_the_gradient_of_their_values(monkeypatch):
    """Values of rounded logits beside gradients of exact ones were 2⁻⁹ · |z| apart, here some per cent of each p."""
    draw = torch.Generator().manual_seed(1)
    hidden = (4 * torch.randn(5, 16, generator=draw)).bfloat16().requires_grad_()
    weight = (2 * torch.randn(9, 16, generator=draw)).bfloat16()
    truth = hidden.detach().double().requires_grad_()
    target = torch.tensor([0, 8, 3, 3, 1])
    wanted = (truth @ weight.double().t()).log_softmax(1)[torch.arange(5), target]
    (true,) = torch.autograd.grad(wanted.sum(), truth)
    monkeypatch.setattr(linear_plan, "_DEFAULT", 1)  # no chunk has room
    for top in (0, 2):
        with xent.backend("triton"):
            found = xent.token_logprobs(hidden, target, linear_weight=weight, entropy=True, top=top)
        (got,) = torch.autograd.grad(found.logprob.sum(), hidden)
        torch.testing.assert_close(found.logprob.double(), wanted.detach(), rtol=1e-5, atol=1e-5)
        assert (got.double() - true).norm() <= 2**-7 * true.norm()  # G and the result are rounded to bfloat16
        assert found.top_logprobs is None or (found.top_logprobs <= 0).all()
    monkeypatch.setattr(linear_cross_entropy, "chunks", lambda *_: pytest.fail("no logits are asked for"))
    with xent.backend("triton"):
        xent.token_logprobs(hidden, target, linear_weight=weight)


def test_an_ignore_index_of_numpy():
    x, y = torch.randn(3, C), torch.tensor([0, 1, 2])
    with xent.backend("triton"):
        got = xent.cross_entropy(x, y, ignore_index=np.int64(1))
    torch.testing.assert_close(got, torch.nn.functional.cross_entropy(x, y, ignore_index=1))


def test_rows_of_no_extent_in_two_dimensions():
    x = torch.zeros(2, 0, 3, 0, 4, C, requires_grad=True)
    with xent.backend("triton"):
        loss = xent.cross_entropy(x, torch.zeros(x.shape[:-1]).long(), dim=-1, reduction="sum")
    assert torch.autograd.grad(loss, x)[0].shape == x.shape
    assert loss == 0


def test_choices_counts_the_rows_of_a_call():
    """Features in any dimension, a shift; a dimension that there is not has no plan."""
    given = torch.empty(2, 8, 7), torch.empty(5, 8)
    with xent.backend("triton"):
        notes = [xent.choices(*given, operation="linear_cross_entropy", dim=1, shift=s).note for s in (0, 1)]
        assert [note.split(" at a time")[0] for note in notes] == ["14 rows", "12 rows"]
        assert xent.choices(given[0], dim=9).note == ""
