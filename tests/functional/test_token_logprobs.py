"""token_logprobs with entropy and the most likely classes: values, ties, gradients, what is ignored."""

from __future__ import annotations

import pytest
import torch

import xent
from tests.edge_cases import BACKENDS_HERE, DTYPES

N, T, D, C = 3, 5, 4, 11
backends = pytest.mark.parametrize("backend", BACKENDS_HERE)
linears = pytest.mark.parametrize("linear", [False, True], ids=["", "linear"])
OPTIONS = [{}, {"softcap": 4.0, "logit_scale": -0.7}, {"shift": 1, "ignore_index": 3}]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tokens() -> torch.Tensor:
    drawn = torch.randint(C, (N, T), generator=torch.Generator().manual_seed(1))
    drawn[1, 3] = drawn[0, 0] = -100
    return drawn


def plain(logits, target, top, softcap=None, logit_scale=1.0, shift=0, ignore_index=-100):
    """log_softmax, gather and a stable sort, as a user writes it."""
    z = logits * logit_scale
    z = z if softcap is None else softcap * torch.tanh(z / softcap)
    z, target = z[:, : T - shift], target[:, shift:]
    log_p, ignored = z.log_softmax(-1), target == ignore_index
    best = z.sort(dim=-1, descending=True, stable=True).indices[..., :top]
    found = (
        log_p.gather(-1, target.masked_fill(ignored, 0).unsqueeze(-1)).squeeze(-1).masked_fill(ignored, 0),
        -(log_p.exp() * log_p).sum(-1).masked_fill(ignored, 0),
        best.masked_fill(ignored.unsqueeze(-1), -1),
        log_p.gather(-1, best).masked_fill(ignored.unsqueeze(-1), 0),
    )
    return xent.TokenLogprobs(*found)


@backends
@linears
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("top", [1, 4, C])
def test_values_and_gradients(backend, linear, options, top):
    hidden, head, bias, target = normal(N, T, D), normal(C, D, seed=1), normal(C, seed=2), tokens()
    if "ignore_index" in options:
        target = target.masked_fill(target == -100, options["ignore_index"])
    leaves = [x.requires_grad_() for x in (hidden, head, bias)]
    logits = hidden @ head.T + bias
    with xent.backend(backend):
        if linear:
            options = {"linear_weight": head, "linear_bias": bias, **options}
            got = xent.token_logprobs(hidden, target, entropy=True, top=top, **options)
            alone = xent.token_logprobs(hidden, target, **options)
        else:
            got = xent.token_logprobs(logits, target, entropy=True, top=top, **options)
            alone = xent.token_logprobs(logits, target, **options)
    want = plain(logits, target, top, **{k: v for k, v in options.items() if "linear" not in k})
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(got.logprob, alone, rtol=1e-14, atol=1e-14)
    weighed = [
        (r.logprob * 0.3).sum() + r.entropy.square().sum() + r.top_logprobs.cumsum(-1).sum() for r in (got, want)
    ]
    for one, other in zip(*(torch.autograd.grad(w, leaves, retain_graph=True) for w in weighed), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


@backends
@linears
@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_come_in_the_order_of_their_class(backend, linear, dtype):
    """Small integers: every dtype and every sum holds them exactly, and most places are ties."""
    logits = torch.randint(-2, 2, (40, 300), generator=torch.Generator().manual_seed(3)).to(dtype)
    logits[0], logits[1, ::2] = 0, -torch.inf
    identity, target = torch.eye(300, dtype=dtype), torch.zeros(40, dtype=torch.int64)
    finite = logits.clamp(min=-1000)
    for top in (1, 7, 100, 299):
        with xent.backend(backend):
            if linear:
                got = xent.token_logprobs(finite, target, linear_weight=identity, top=top)
            else:
                got = xent.token_logprobs(logits, target, top=top)
        want = logits.double().sort(dim=1, descending=True, stable=True).indices[:, :top]
        assert torch.equal(got.top_indices, want)
        assert got.logprob.dtype == got.top_logprobs.dtype == (torch.float32 if dtype.itemsize == 2 else dtype)
        assert got.entropy is None


@backends
@linears
def test_second_derivatives(backend, linear):
    hidden, head = normal(2, D).requires_grad_(), normal(C, D, seed=1).requires_grad_()
    target = torch.tensor([3, -100])

    def score(hidden, head):
        with xent.backend(backend):
            if linear:
                got = xent.token_logprobs(hidden, target, linear_weight=head, entropy=True, top=2, softcap=2.0)
            else:
                got = xent.token_logprobs(hidden @ head.T, target, entropy=True, top=2, softcap=2.0)
        return got.logprob, got.entropy, got.top_logprobs

    assert torch.autograd.gradcheck(score, (hidden, head))
    assert torch.autograd.gradgradcheck(score, (hidden, head))


@backends
def test_no_rows_one_row_and_only_one_asked_for(backend):
    with xent.backend(backend):
        nothing = torch.empty(0, dtype=torch.int64)
        empty = xent.token_logprobs(normal(0, C), nothing, entropy=True, top=2)
        one = xent.token_logprobs(normal(D), torch.tensor(2), linear_weight=normal(C, D), top=3)
        spread = xent.token_logprobs(normal(2, C), torch.tensor([1, 2]), entropy=True)
        plain = xent.token_logprobs(normal(2, C), torch.tensor([1, 2]), entropy=False, top=0)
    assert [tuple(part.shape) for part in empty] == [(0,), (0,), (0, 2), (0, 2)]
    assert (one.logprob.shape, one.top_indices.shape, one.entropy) == ((), (3,), None)
    assert (spread.top_indices, spread.top_logprobs) == (None, None)
    assert isinstance(plain, torch.Tensor)


@backends
@linears
def test_a_shift_that_leaves_no_rows_gives_gradients_of_zero(backend, linear):
    """As a batch of one token each does under shift=1."""
    hidden, head = normal(N, 1, D if linear else C).requires_grad_(), normal(C, D).requires_grad_()
    options, leaves = ({"linear_weight": head}, [hidden, head]) if linear else ({}, [hidden])
    with xent.backend(backend):
        target = torch.zeros(N, 1, dtype=torch.int64)
        found = xent.token_logprobs(hidden, target, shift=1, entropy=True, top=2, **options)
    assert [tuple(part.shape) for part in found] == [(N, 0), (N, 0), (N, 0, 2), (N, 0, 2)]
    total = found.logprob.sum() + found.entropy.sum() + found.top_logprobs.sum()
    for leaf, gradient in zip(leaves, torch.autograd.grad(total, leaves), strict=True):
        assert torch.equal(gradient, torch.zeros_like(leaf))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"top": 12}, "top=12 of 11 classes; it counts classes, 0 or more: pass no more than there are"),
        ({"top": -1}, "top=-1 of 11 classes; it counts classes, 0 or more: pass no more than there are"),
        ({"top": 1.5}, "top is a float; it counts classes: pass int(top)"),
    ],
)
def test_errors(options, text):
    with pytest.raises(xent.XentError) as raised:
        xent.token_logprobs(normal(2, C), torch.tensor([1, 2]), **options)
    assert str(raised.value) == text
