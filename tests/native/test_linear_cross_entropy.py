"""Linear + cross-entropy on the kernels: every way to cut it."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import xent
from xent.backends.native import linear_cross_entropy as kernel
from xent.backends.native.linear_plan import Plan
from xent.backends.native.linear_products import Products

ROWS, FEATURES, CLASSES = 37, 41, 301
CUTS = {
    "rows": Plan("rows", 7, 0, 0, 0.0),
    "classes": Plan("classes", 64, 0, 0, 0.0),
    "classes, two tiles kept": Plan("classes", 64, 2, 0, 0.0),
    "classes, in the gradient": Plan("classes", 64, 4, 0, 0.0, in_gradient=True),
    "both": Plan("both", 7, 0, 0, 0.0, tile=64),
}
SETTINGS = [
    {"label_smoothing": smoothing, "z_loss": z_loss, "softcap": softcap, "logit_scale": 1.3}
    for smoothing, z_loss, softcap in itertools.product((0.0, 0.1, 1.0), (0.0, 0.01), (None, 3.0))
]


@pytest.fixture
def cut(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Cut the work as named, whatever the cost model says."""
    monkeypatch.setattr(kernel, "plan", lambda size, bound, *, with_gradient: CUTS[request.param])
    return request.param


def results(backend: str, kind: str, weights: str, use: str, **options: Any) -> list[Tensor]:
    """Values and gradients of one problem, float64 inputs, weights drawn alike for every backend; learned ones too."""
    draw = torch.Generator().manual_seed(1)
    shapes = {"input": (ROWS, FEATURES), "linear_weight": (CLASSES, FEATURES), "linear_bias": (CLASSES,)}
    leaves = {
        name: torch.randn(shape, generator=draw, dtype=torch.float64).requires_grad_() for name, shape in shapes.items()
    }
    target = torch.randint(0, CLASSES, (ROWS,), generator=draw)
    target[::5] = -100
    if kind == "soft":
        target = torch.rand(ROWS, CLASSES, generator=draw, dtype=torch.float64).softmax(1)
    if kind == "sparse":  # classes that occur twice, padding, and rows of nothing else
        indices = torch.randint(0, CLASSES, (ROWS, 5), generator=draw)
        indices[:, 3], indices[::3, 4], indices[::7] = indices[:, 0], -100, -100
        target = xent.SparseTarget(indices, torch.rand(ROWS, 5, generator=draw, dtype=torch.float64))
    learned = []
    if weights:
        options["weight"] = torch.rand(CLASSES, generator=draw, dtype=torch.float64)
        options["row_weight"] = torch.randn(ROWS, generator=draw, dtype=torch.float64)
    if weights == "learned":
        learned = [options["weight"], options["row_weight"]]
        learned += {"hard": [], "soft": [target], "sparse": [target[1]]}[kind]
        for tensor in learned:
            tensor.requires_grad_()
    with xent.backend(backend):
        if use == "stats":
            loss, rows = xent.linear_cross_entropy(**leaves, target=target, stats=True, **options)
            ramp = torch.linspace(0, 1, ROWS, dtype=torch.float64)
            (loss + rows.lse @ ramp + rows.entropy @ (1 + ramp)).backward()
            values = [loss, *rows]
        else:
            loss = xent.linear_cross_entropy(**leaves, target=target, reduction=use, **options)
            loss.backward(torch.linspace(1, 2, loss.numel(), dtype=torch.float64).view(loss.shape) * 2.5)
            values = [loss]
    used = (*leaves.values(), *learned)  # the reference gives none to probabilities that smoothing 1 leaves unread
    return values + [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in used]


@pytest.mark.parametrize("cut", CUTS, indirect=True)
@pytest.mark.parametrize("kind", ["hard", "soft", "sparse"])
@pytest.mark.parametrize("weights", ["", "weighted", "learned"])
@pytest.mark.parametrize("use", ["mean", "sum", "none", "stats"])
def test_every_cut_gives_the_reference(cut: str, kind: str, weights: str, use: str) -> None:
    for options in SETTINGS:
        got, want = (results(backend, kind, weights, use, **options) for backend in ("native", "reference"))
        assert len(got) == len(want)
        for one, other in zip(got, want, strict=True):
            # float64 sums of 301 terms in another order, over values up to about 20
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12, msg=f"{cut} {options}")


# Of the hidden states and of the weight: a sum of several products of half matrices, each of which the platform
# rounds before it is added (six chunks of rows, five tiles of classes; 1.112 in the worst of 12 draws), or one product.
ROUNDED_PARTS = {"rows": (1.001, 1.15), "both": (1.001, 1.001)}


@pytest.mark.parametrize("cut", CUTS, indirect=True)
@pytest.mark.parametrize("kind", ["hard", "sparse"])
@pytest.mark.parametrize("edge", [0, 64], ids=["platform", "widened"])
def test_half_gradients_are_as_near_as_the_plain_formulas(
    cut: str, kind: str, edge: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To float64, in norm: a thousandth more, for sums of float32 in another order, wherever parts are not rounded."""
    monkeypatch.setattr(kernel, "plan", lambda *_, **__: replace(CUTS[cut], products=Products(edge)))
    hidden, head = (torch.randn(shape).bfloat16() for shape in ((ROWS, FEATURES), (CLASSES, FEATURES)))
    target = torch.randint(0, CLASSES, (ROWS,))
    target[3] = -100
    sparse = xent.SparseTarget(torch.stack([target, target], 1), torch.full((ROWS, 2), 0.5))

    def gradients(dtype: torch.dtype, loss: Callable[..., Tensor], labels: Any) -> list[Tensor]:
        leaves = [tensor.detach().to(dtype).requires_grad_() for tensor in (hidden, head)]
        return [grad.double() for grad in torch.autograd.grad(loss(*leaves, labels), leaves)]

    def plain(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
        logits = torch.nn.functional.linear(hidden, head)
        return torch.nn.functional.cross_entropy(logits.float() if hidden.dtype == torch.bfloat16 else logits, labels)

    truth = gradients(torch.float64, plain, target)
    theirs = gradients(torch.bfloat16, plain, target)
    ours = gradients(torch.bfloat16, xent.linear_cross_entropy, target if kind == "hard" else sparse)
    most = (1.001, 1.001) if edge else ROUNDED_PARTS.get(cut, (1.15, 1.001))
    for true, their, our, times in zip(truth, theirs, ours, most, strict=True):
        assert (our - true).norm() <= times * (their - true).norm()


@pytest.mark.parametrize("cut", CUTS, indirect=True)
@pytest.mark.parametrize("weighted", [False, True])
def test_a_loss_scaler_reaches_float16_in_time(cut: str, weighted: bool) -> None:
    """p / N is below the least number of float16, 6e-8, for most classes; times 2**16 it is not. A second time too.

    Compared with the plain formula in float16, whose G is rounded once with the factor in it; a tenth more for sums in
    another order.
    """
    hidden, head = torch.randn(ROWS, FEATURES).half(), torch.randn(CLASSES, FEATURES).half()
    bias = torch.cat([torch.zeros(CLASSES // 2), torch.full((CLASSES - CLASSES // 2,), -9.0)]).half()
    target, factor = torch.randint(0, CLASSES // 2, (ROWS,)), torch.tensor(65536.0)
    share = torch.full((ROWS,), 2.0**-6) if weighted else None

    def gradients(dtype: torch.dtype, loss: Callable[..., Tensor], times: int = 1) -> list[Tensor]:
        leaves = [x.detach().to(dtype).requires_grad_() for x in (hidden, head, bias)]
        made = loss(*leaves)
        for _ in range(times):
            found = torch.autograd.grad(made, leaves, factor.to(made.dtype), retain_graph=True)
        return [grad.double() for grad in found]

    def plain(hidden: Tensor, head: Tensor, bias: Tensor) -> Tensor:
        logits = torch.nn.functional.linear(hidden, head, bias)
        rows = torch.nn.functional.cross_entropy(logits.double(), target, reduction="none") / ROWS
        return (rows * (1 if share is None else share * ROWS / share.sum())).sum()

    def ours(hidden: Tensor, head: Tensor, bias: Tensor) -> Tensor:
        return xent.linear_cross_entropy(hidden, head, target, linear_bias=bias, row_weight=share)

    truth, theirs = gradients(torch.float64, plain), gradients(torch.float16, plain)
    for times in (1, 2):
        for true, their, our in zip(truth, theirs, gradients(torch.float16, ours, times), strict=True):
            rare = slice(CLASSES // 2, None) if len(true) == CLASSES else slice(None)
            least = torch.finfo(torch.float16).eps / 2 * true[rare].norm()  # one rounding of the result
            assert (our - true)[rare].norm() <= 1.1 * max((their - true)[rare].norm(), least)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outputs_may_be_written_over(dtype: torch.dtype) -> None:
    """What the backward pass reads is its own: losses are scaled, statistics are read and changed in place."""
    hidden, head = torch.randn(ROWS, FEATURES, dtype=dtype), torch.randn(CLASSES, FEATURES, dtype=dtype)
    target = torch.randint(0, CLASSES, (ROWS,))
    target[3] = -100

    def both(written: bool) -> list[Tensor]:
        leaves = [hidden.clone().requires_grad_(), head.clone().requires_grad_()]
        _, rows = xent.linear_cross_entropy(*leaves, target, stats=True, reduction="none", z_loss=0.1)
        scores = xent.token_logprobs(leaves[0], target, linear_weight=leaves[1], entropy=True)
        assert scores.entropy is not None
        outputs = [rows.loss, rows.lse, rows.entropy, scores.logprob, scores.entropy]
        found = sum(output.sum() for output in outputs)
        if written:
            for output in [*outputs, rows.weight, rows.prediction]:
                output.detach().fill_(7)
        return list(torch.autograd.grad(found, leaves))

    for one, other in zip(both(False), both(True), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("use", ["none", "stats", "mean", "logprobs"])
def test_a_loss_without_a_backward_is_freed(use: str) -> None:
    """With its hidden states and what they come from."""
    hidden, target = torch.randn(ROWS, FEATURES, requires_grad=True) * 2, torch.zeros(ROWS, dtype=torch.long)
    head, gone = torch.randn(CLASSES, FEATURES), weakref.ref(hidden)
    if use == "logprobs":
        made = xent.token_logprobs(hidden, target, linear_weight=head, entropy=True, top=2)
    elif use == "stats":
        made = xent.linear_cross_entropy(hidden, head, target, stats=True)
    else:
        made = xent.linear_cross_entropy(hidden, head, target, reduction=use)
    del made, hidden
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("cut", CUTS, indirect=True)
def test_masked_classes(cut: str) -> None:
    """−inf in the bias masks classes, a whole tile of them too; a masked target costs +inf."""
    bias = torch.zeros(CLASSES)
    bias[:70] = -torch.inf
    hidden, head = torch.randn(4, FEATURES), torch.randn(CLASSES, FEATURES)
    target = torch.tensor([80, 300, 100, 3])
    losses = []
    for backend in ("native", "reference"):
        with xent.backend(backend):
            loss, rows = xent.linear_cross_entropy(hidden, head, target, linear_bias=bias, stats=True, reduction="none")
            losses.append((loss, rows.entropy, rows.prediction))
    for one, other in zip(*losses, strict=True):
        torch.testing.assert_close(one, other)
    assert losses[0][0][3] == torch.inf


@pytest.mark.parametrize("cut", CUTS, indirect=True)
def test_backward_twice_gives_the_same_gradient(cut: str) -> None:
    hidden = torch.randn(ROWS, FEATURES, requires_grad=True)
    head = torch.randn(CLASSES, FEATURES, requires_grad=True)
    loss = xent.linear_cross_entropy(hidden, head, torch.zeros(ROWS, dtype=torch.long))
    first = torch.autograd.grad(loss, (hidden, head), retain_graph=True)
    second = torch.autograd.grad(loss, (hidden, head))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("num_rows", [ROWS, 2 * FEATURES])
def test_a_value_does_not_depend_on_when_gradients_are_made(num_rows: int, autocast: bool) -> None:
    """With and without a graph, as a mean or row by row: one cut, the same bits. A parameter under no_grad too."""
    hidden, head = torch.randn(num_rows, FEATURES), torch.nn.Parameter(torch.randn(2000, FEATURES))
    target, found = torch.randint(0, 2000, (num_rows,)), []
    for recorded in (True, False):
        with torch.set_grad_enabled(recorded), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            for reduction in ("sum", "none"):
                loss = xent.linear_cross_entropy(hidden, head, target, reduction=reduction, max_memory=150_000)
                found.append(xent.reduction.sum_of_rows(loss.detach()) if reduction == "none" else loss.detach())
                if recorded:
                    found.append(torch.autograd.grad(loss.sum(), head)[0])
    sums, gradients = [x for x in found if x.ndim == 0], [x for x in found if x.ndim]
    assert all(torch.equal(x, sums[0]) for x in sums)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("cut", CUTS, indirect=True)
def test_one_gradient_alone(cut: str) -> None:
    """Of the hidden states, where there is no memory of a weight's gradient, and of the weight."""
    target = torch.randint(0, CLASSES, (ROWS,))
    leaves = torch.randn(ROWS, FEATURES), torch.randn(CLASSES, FEATURES)
    for number in range(2):
        found = []
        for backend in ("native", "reference"):
            given = [leaf.clone().requires_grad_(i == number) for i, leaf in enumerate(leaves)]
            with xent.backend(backend):
                xent.linear_cross_entropy(*given, target).backward()
            found.append(given[number].grad)
        torch.testing.assert_close(*found)


def test_gradients_of_a_tied_weight_add_up() -> None:
    embedding = torch.nn.Embedding(CLASSES, FEATURES)
    tokens = torch.randint(0, CLASSES, (ROWS,))

    def gradient(loss: Callable[..., Tensor]) -> Tensor:
        embedding.zero_grad()
        loss(embedding(tokens), embedding.weight, tokens).backward()
        assert embedding.weight.grad is not None
        return embedding.weight.grad.clone()

    plain = gradient(lambda h, w, y: torch.nn.functional.cross_entropy(h @ w.T, y))
    torch.testing.assert_close(gradient(xent.linear_cross_entropy), plain)


def test_second_derivatives_of_a_tied_weight_keep_their_paths_apart() -> None:
    """The hidden states depend on the weight: its two parts of the gradient are differentiated once each."""
    weight = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    tokens = torch.tensor([0, 3, 6])

    def tied(w: Tensor) -> Tensor:
        return xent.linear_cross_entropy(w[tokens].tanh(), w, tokens)

    assert torch.autograd.gradgradcheck(tied, weight)


@pytest.mark.parametrize("cut", CUTS, indirect=True)
def test_the_best_classes_are_those_of_the_reference(cut: str) -> None:
    """Small integers, exact in every order of the sums: most places are ties, over tiles and within them."""
    hidden = torch.randint(-1, 2, (ROWS, FEATURES)).float().requires_grad_()
    head = torch.randint(-1, 2, (CLASSES, FEATURES)).float().requires_grad_()
    target = torch.arange(ROWS)
    target[::4] = -100
    for top in (1, 9, 80, CLASSES):
        found = []
        for backend in ("native", "reference"):
            with xent.backend(backend):
                scores = xent.token_logprobs(hidden, target, linear_weight=head, entropy=True, top=top)
            sums = scores.logprob.sum() + scores.entropy.square().sum() + scores.top_logprobs.cumsum(-1).mean()
            found.append([*scores, *torch.autograd.grad(sums, (hidden, head))])
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other)
    assert torch.equal(found[0][2], found[1][2])


@pytest.mark.parametrize("cut", CUTS, indirect=True)
def test_masked_classes_and_learned_weights(cut: str) -> None:
    """A class that is masked and of target probability 0 gives its weight nothing; an ignored row gives nothing."""
    bias = torch.zeros(CLASSES)
    bias[:70] = -torch.inf
    hidden, head = torch.randn(4, FEATURES), torch.randn(CLASSES, FEATURES)
    hidden[3] = torch.inf
    sparse = xent.SparseTarget(torch.tensor([[80, 3], [300, 100], [75, 75], [-100, -100]]), torch.eye(4)[:, [0, 1]])
    for target in (sparse, torch.tensor([80, 300, 75, -100])):
        found = []
        for backend in ("native", "reference"):
            weight = torch.ones(CLASSES, requires_grad=True)
            options = {"linear_bias": bias, "weight": weight, "reduction": "none", "z_loss": 0.1}
            with xent.backend(backend):
                if backend == "native":
                    rows = xent.linear_cross_entropy(hidden, head, target, **options)
                else:  # without the ignored row, whose infinities it would multiply by 0
                    kept = xent.SparseTarget(*(part[:3] for part in target)) if target is sparse else target[:3]
                    rows = xent.linear_cross_entropy(hidden[:3], head, kept, **options)
            rows.sum().backward()
            found.append((rows.detach()[:3], weight.grad))
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("cut", CUTS, indirect=True)
@pytest.mark.parametrize("kind", ["hard", "soft", "sparse"])
def test_a_class_weight_of_any_stride(cut: str, kind: str) -> None:
    """A column of a table and one number for all classes, in the dtype of the kernels, so that no cast packs them."""
    hidden, head = torch.randn(3, FEATURES), torch.randn(CLASSES, FEATURES)
    target = {"hard": torch.tensor([0, 80, 300]), "soft": torch.rand(3, CLASSES).softmax(1)}.get(kind)
    if target is None:
        target = xent.SparseTarget(torch.tensor([[0, 80], [80, 300], [5, 5]]), torch.rand(3, 2))
    for weight in (torch.rand(CLASSES, 2)[:, 1], torch.tensor(0.5).expand(CLASSES)):
        losses = [
            xent.linear_cross_entropy(hidden, head, target, weight=w, label_smoothing=0.1)
            for w in (weight, weight.contiguous())
        ]
        assert torch.equal(*losses)


@pytest.mark.parametrize("cut", CUTS, indirect=True)
def test_statistics_of_rows_without_a_softmax(cut: str) -> None:
    """An infinity or a NaN in one tile and not in others, and all of them masked."""
    for row in ({3: torch.inf}, {3: torch.inf, 200: torch.inf}, {5: torch.inf, 299: torch.nan}, {80: torch.nan}, {}):
        logits = torch.linspace(-1, 1, CLASSES) if row else torch.full((CLASSES,), -torch.inf)
        for place, value in row.items():
            logits[place] = value
        with xent.backend("native"):
            _, rows = xent.linear_cross_entropy(
                torch.ones(2, 1), logits.unsqueeze(1), torch.tensor([1, 2]), stats=True, z_loss=0.5
            )
        torch.testing.assert_close(rows.lse, logits.logsumexp(0).expand(2), equal_nan=True)
        torch.testing.assert_close(rows.z_loss, 0.5 * rows.lse.square(), equal_nan=True)
        assert rows.prediction.tolist() == [int(logits.argmax())] * 2


@pytest.mark.parametrize("cut", CUTS, indirect=True)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_ignored_rows_enter_no_product(cut: str, reduction: str) -> None:
    """They may hold NaN, and every gradient is that of the others."""
    hidden, head = torch.randn(ROWS, FEATURES), torch.randn(CLASSES, FEATURES)
    target = torch.randint(0, CLASSES, (ROWS,))
    target[::2] = -100
    hidden[::2] = torch.nan
    ours, kept = hidden.clone().requires_grad_(), hidden[1::2].clone().requires_grad_()
    losses = [
        xent.linear_cross_entropy(x, head.requires_grad_(), y, reduction=reduction).sum()
        for x, y in ((ours, target), (kept, target[1::2]))
    ]
    (of_ours, of_head), (of_kept, of_head_alone) = (
        torch.autograd.grad(loss, (x, head)) for loss, x in zip(losses, (ours, kept), strict=True)
    )
    assert not of_ours[::2].any()
    torch.testing.assert_close(of_ours[1::2], of_kept)
    torch.testing.assert_close(of_head, of_head_alone)
