"""Shapes of linear_cross_entropy, tied weights, dtypes, token_logprobs; figures: test_option_grid, test_edge_cases."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import xent
from tests.edge_cases import BACKENDS_HERE

N, T, D, C = 3, 4, 5, 6
backends = pytest.mark.parametrize("backend", BACKENDS_HERE)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    draw = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return draw.requires_grad_()


def labels(*shape: int) -> torch.Tensor:
    return torch.randint(C, shape, generator=torch.Generator().manual_seed(1))


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


@backends
@pytest.mark.parametrize("shape", [(D,), (N, D), (N, T, D), (2, N, T, D)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_any_leading_dimensions(backend, shape, reduction):
    hidden, head, bias, target = normal(*shape), normal(C, D, seed=1), normal(C, seed=2), labels(*shape[:-1])
    with xent.backend(backend):
        loss = xent.linear_cross_entropy(hidden, head, target, linear_bias=bias, reduction=reduction)
    logits = F.linear(hidden, head, bias).reshape(-1, C)
    plain = F.cross_entropy(logits, target.reshape(-1), reduction=reduction)
    close(loss, plain.reshape(loss.shape))
    assert loss.shape == (shape[:-1] if reduction == "none" else ())
    wanted = (hidden, head, bias)
    for ours, theirs in zip(
        torch.autograd.grad(loss.sum(), wanted), torch.autograd.grad(plain.sum(), wanted), strict=True
    ):
        close(ours, theirs)


@backends
def test_features_in_dim_1(backend):
    """(N, D, T), as a convolution leaves them; probabilities have their classes where the features stood."""
    hidden, head, target = normal(N, D, T), normal(C, D, seed=1), labels(N, T)
    soft = normal(N, C, T, seed=3).detach().softmax(1)
    logits = F.linear(hidden.transpose(1, 2), head).transpose(1, 2)
    with xent.backend(backend):
        close(xent.linear_cross_entropy(hidden, head, target, dim=1), F.cross_entropy(logits, target))
        close(xent.linear_cross_entropy(hidden, head, soft, dim=1), F.cross_entropy(logits, soft))
        rows = xent.linear_cross_entropy(hidden, head, target, dim=1, reduction="none")
    assert rows.shape == (N, T)


@backends
@pytest.mark.parametrize("extra", [(2,), (2, 3)])
@pytest.mark.parametrize("soft", [False, True])
def test_k_dimensional_weight_is_torchs(backend, extra, soft):
    hidden, head, bias = normal(N, D), normal(C, *extra, D, seed=1), normal(C, *extra, seed=2)
    target = normal(N, C, *extra, seed=3).detach().softmax(1) if soft else labels(N, *extra)
    with xent.backend(backend):
        loss = xent.linear_cross_entropy(hidden, head, target, linear_bias=bias)
    close(loss, F.linear_cross_entropy(hidden, head, target, linear_bias=bias))
    logits = torch.einsum("bd,c...d->bc...", hidden, head) + bias
    close(loss, F.cross_entropy(logits, target))


@backends
@pytest.mark.parametrize("shift", [1, 2])
@pytest.mark.parametrize("dim", [-1, 1])
def test_shift_scores_the_next_token(backend, shift, dim):
    hidden, head, target = normal(N, T, D), normal(C, D, seed=1), labels(N, T)
    target[0, 2] = -100
    given = hidden if dim == -1 else hidden.transpose(1, 2)
    with xent.backend(backend):
        loss = xent.linear_cross_entropy(given, head, target, shift=shift, dim=dim)
        rows = xent.linear_cross_entropy(given, head, target, shift=shift, dim=dim, reduction="none")
    logits = F.linear(hidden[:, :-shift], head).reshape(-1, C)
    close(loss, F.cross_entropy(logits, target[:, shift:].reshape(-1)))
    assert rows.shape == (N, T - shift)
    (grad,) = torch.autograd.grad(loss, hidden)
    assert grad[:, T - shift :].count_nonzero() == 0


@backends
def test_shift_takes_targets_that_nothing_predicts_unread(backend):
    """The first `shift` labels are scored by no position: they may be anything."""
    target = labels(N, T)
    target[:, 0] = 10**6
    with xent.backend(backend):
        assert xent.linear_cross_entropy(normal(N, T, D), normal(C, D), target, shift=1).isfinite()


@backends
def test_tied_weight_gets_both_gradients(backend):
    embedding, tokens = normal(C, D), labels(N, T)
    with xent.backend(backend):
        loss = xent.linear_cross_entropy(embedding[tokens], embedding, tokens, shift=1)
    plain = F.cross_entropy(F.linear(embedding[tokens][:, :-1], embedding).reshape(-1, C), tokens[:, 1:].reshape(-1))
    close(loss, plain)
    close(torch.autograd.grad(loss, embedding)[0], torch.autograd.grad(plain, embedding)[0])


@backends
def test_input_may_be_the_weight_itself(backend):
    square = normal(C, C)
    with xent.backend(backend):
        loss = xent.linear_cross_entropy(square, square, torch.arange(C))
    plain = F.cross_entropy(square @ square.T, torch.arange(C))
    close(torch.autograd.grad(loss, square)[0], torch.autograd.grad(plain, square)[0])


@backends
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(backend, dtype):
    hidden, head = normal(N, D).detach().to(dtype).requires_grad_(), normal(C, D).detach().to(dtype).requires_grad_()
    with xent.backend(backend):
        loss = xent.linear_cross_entropy(hidden, head, labels(N))
    loss.backward()
    assert loss.dtype == (torch.float32 if dtype.itemsize == 2 else dtype)
    assert (hidden.grad.dtype, head.grad.dtype) == (dtype, dtype)


@backends
@pytest.mark.parametrize("needed", [(True, True, True), (True, False, True), (False, False, True)])
def test_a_normalizer_gets_its_gradient(backend, needed):
    """L = Σ / n, so that dL/dn = −Σ / n²; beside gradients of the layer and alone."""
    hidden, head = (
        tensor.detach().requires_grad_(need) for tensor, need in zip((normal(N, D), normal(C, D)), needed, strict=False)
    )
    count = torch.tensor(2.5, dtype=torch.float64, requires_grad=True)
    with xent.backend(backend):
        loss = xent.linear_cross_entropy(hidden, head, labels(N), normalizer=count)
    wanted = [tensor for tensor in (hidden, head, count) if tensor.requires_grad]
    plain = F.cross_entropy(F.linear(hidden, head), labels(N), reduction="sum") / count
    for ours, theirs in zip(torch.autograd.grad(loss, wanted), torch.autograd.grad(plain, wanted), strict=True):
        close(ours, theirs)


@backends
def test_hidden_states_without_features(backend):
    """Logits are the bias: uniform without one."""
    for shape in ((0,), (N, 0), (N, T, 0)):
        hidden, head, target = normal(*shape), normal(C, 0), labels(*shape[:-1])
        with xent.backend(backend):
            loss = xent.linear_cross_entropy(hidden, head, target, linear_bias=normal(C))
            plain = F.cross_entropy(normal(C).expand(target.numel(), C), target.reshape(-1))
            close(loss, plain)
            close(
                xent.token_logprobs(hidden, target, linear_weight=head).sum(),
                -target.numel() * head.new_tensor(C).log(),
            )
        grads = torch.autograd.grad(loss, (hidden, head))
        assert [grad.shape for grad in grads] == [hidden.shape, head.shape]


@backends
def test_k_dimensional_weight_without_places_is_an_error(backend):
    with xent.backend(backend), pytest.raises(xent.errors.ShapeError, match="at least one place"):
        xent.linear_cross_entropy(normal(N, D), normal(C, 0, D), torch.zeros(N, 0, dtype=torch.long))


@backends
@pytest.mark.parametrize("soft", [False, True])
def test_weights_and_inputs_in_any_order_of_memory(backend, soft):
    """Transposed, every other feature, one row for all: values and gradients are those of contiguous tensors."""
    target = normal(N, C).detach().softmax(1) if soft else labels(N)
    tables = {
        "transposed": (normal(D, N).T, normal(D, C).T),
        "every other": (normal(N, 2 * D)[:, ::2], normal(2 * C, 2 * D)[::2, ::2]),
        "expanded": (normal(1, D).expand(N, D), normal(1, D).expand(C, D)),
        "flipped": (normal(N, D).flip(0), normal(C, D).flip(1)),
    }
    for hidden, head in tables.values():
        with xent.backend(backend):
            loss = xent.linear_cross_entropy(hidden, head, target)
        plain = F.cross_entropy(F.linear(hidden.contiguous(), head.contiguous()), target)
        close(loss, plain)
        for ours, theirs in zip(
            torch.autograd.grad(loss, (hidden, head)), torch.autograd.grad(plain, (hidden, head)), strict=True
        ):
            close(ours, theirs)


@backends
def test_no_rows_and_ignore_index_none(backend):
    head = normal(C, D)
    with xent.backend(backend):
        empty = xent.linear_cross_entropy(normal(0, D), head, labels(0), normalizer=1)
        none = xent.linear_cross_entropy(normal(2, D), head, torch.tensor([1, -100]), ignore_index=None)
        one = xent.linear_cross_entropy(normal(2, D)[:1], head, torch.tensor([1]))
    assert empty == 0
    close(none, one)


@backends
@pytest.mark.parametrize("linear", [False, True])
def test_token_logprobs(backend, linear):
    hidden, head, bias, tokens = normal(N, T, D), normal(C, D, seed=1), normal(C, seed=2), labels(N, T)
    tokens[1, 3] = -100
    logits = F.linear(hidden, head, bias)
    z = 4 * torch.tanh(0.7 * logits / 4)
    expected = z[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None].clamp(min=0)).squeeze(-1)
    expected = expected.masked_fill(tokens[:, 1:] == -100, 0)
    arguments = {"softcap": 4.0, "logit_scale": 0.7, "shift": 1}
    with xent.backend(backend):
        if linear:
            got = xent.token_logprobs(hidden, tokens, linear_weight=head, linear_bias=bias, **arguments)
        else:
            got = xent.token_logprobs(logits, tokens, **arguments)
    close(got, expected)
    wanted = (hidden, head, bias)
    for ours, theirs in zip(
        torch.autograd.grad(got.sum(), wanted, retain_graph=True),
        torch.autograd.grad(expected.sum(), wanted),
        strict=True,
    ):
        close(ours, theirs)


@backends
def test_token_logprobs_takes_the_last_dimension_and_any_integers(backend):
    logits = normal(T, C).detach().bfloat16()
    with xent.backend(backend):
        got = xent.token_logprobs(logits, torch.arange(T, dtype=torch.uint8))
    assert (got.shape, got.dtype) == ((T,), torch.float32)
    torch.testing.assert_close(got, logits.float().log_softmax(-1).diagonal())
