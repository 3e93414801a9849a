"""Infinities, NaN, offsets, empty and ignored rows over three ranks: as one process has them.

Equal in float64 to 1e-12; float32 logits around 1e4 to 1e-6, since a logit is exact and only differences count.
"""

from __future__ import annotations

import pytest
import torch

import xent
from tests.distributed.in_threads import ThreadRanks, on_ranks
from xent.distributed import global_row_count, vocab_parallel_cross_entropy, vocab_parallel_linear_cross_entropy
from xent.errors import DtypeError, OptionError, ShapeError, TargetRangeError

INF = float("inf")
CUTS = (0, 2, 2, 5)
ROWS = {
    "plain": ([1.0, 2.0, 3.0, 0.5, -1.0], 3),
    "a masked shard": ([-INF, -INF, 3.0, 0.5, -1.0], 3),
    "a masked shard with the target": ([-INF, -INF, 3.0, 0.5, -1.0], 1),
    "a masked target beside others": ([-INF, 2.0, 3.0, 0.5, -1.0], 0),
    "nothing but masks": ([-INF] * 5, 0),
    "not a number": ([1.0, float("nan"), 3.0, 0.5, -1.0], 3),
    "infinite": ([1.0, INF, 3.0, 0.5, -1.0], 3),
    "far apart": ([100.0, -100.0, 0.0, 3.0, -3.0], 1),
    "certain": ([60.0, 0.0, 0.0, 0.0, 0.0], 0),
    "ignored": ([INF, 1.0, 2.0, 3.0, 4.0], -100),
}


def over_ranks(logits, target, backend="auto", **options):
    """Loss, rows and gradient of three ranks, the second without classes."""

    def work(ranks: ThreadRanks):
        part = logits[:, CUTS[ranks.rank] : CUTS[ranks.rank + 1]].clone().requires_grad_()
        with xent.backend(backend):
            loss, rows = vocab_parallel_cross_entropy(part, target, group=ranks, stats=True, **options)
        loss.sum().backward()
        return loss.detach(), rows, part.grad

    results = on_ranks(3, work)
    for result in results:
        if isinstance(result, Exception):
            raise result
    loss, rows, _ = results[0]
    return loss, rows, torch.cat([result[2] for result in results], 1)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ROWS)
def test_values_are_those_of_one_process(name, dtype, backend):
    numbers, index = ROWS[name]
    logits, target = torch.tensor([numbers, ROWS["plain"][0]], dtype=dtype), torch.tensor([index, 1])
    loss, rows, gradient = over_ranks(logits, target, backend, reduction="none")
    whole = logits.double().requires_grad_()
    true, true_rows = xent.cross_entropy(whole, target, reduction="none", stats=True)
    true.sum().backward()
    close = {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 1e-6, "atol": 1e-7}
    torch.testing.assert_close(loss.double(), true.detach(), equal_nan=True, **close)
    finite = gradient.isfinite().all(1) & whole.grad.isfinite().all(1)
    torch.testing.assert_close(gradient[finite].double(), whole.grad[finite], **close)
    assert bool(finite[1])
    assert bool(finite[0]) == (name not in ("nothing but masks", "not a number", "infinite")), gradient
    if name not in ("not a number", "infinite", "nothing but masks"):
        assert torch.equal(rows.prediction, true_rows.prediction)
        torch.testing.assert_close(rows.entropy.double(), true_rows.entropy.detach(), **close)


def plain_rows(logits, target, backends=("auto",) * 3, **options):
    """Loss and gradient of three ranks as training calls them: without statistics."""

    def work(ranks: ThreadRanks):
        part = logits[..., CUTS[ranks.rank] : CUTS[ranks.rank + 1]].clone().requires_grad_()
        with xent.backend(backends[ranks.rank]):
            loss = vocab_parallel_cross_entropy(part, target, group=ranks, dim=-1, **options)
        loss.sum().backward()
        return loss.detach(), part.grad, ranks.sent

    results = on_ranks(3, work)
    for result in results:
        if isinstance(result, Exception):
            raise result
    assert all(torch.equal(result[0].nan_to_num(7.0), results[0][0].nan_to_num(7.0)) for result in results)
    return results[0][0], torch.cat([result[1] for result in results], -1), results[0][2]


WAYS = {"kernels": ("auto",) * 3, "formula": ("reference",) * 3, "both": ("auto", "auto", "reference")}


@pytest.mark.parametrize("options", [{}, {"softcap": 5.0, "logit_scale": 0.5}, {"z_loss": 0.1}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("way", WAYS)
def test_plain_rows_have_the_values_of_one_process(way, dtype, options):
    """By kernels that merge as well, by torch, and where a rank can only do the latter, which all then do.

    float32: an ulp of the loss, and of a capped logit, up to 5, where a kernel bends it; a gradient is a difference of
    numbers up to 1. Half gradients are rounded once.
    """
    numbers = torch.tensor([numbers for numbers, _ in ROWS.values()], dtype=dtype)
    target = torch.tensor([index for _, index in ROWS.values()])
    loss, gradient, sent = plain_rows(numbers, target, WAYS[way], reduction="none", **options)
    whole = numbers.double().requires_grad_()
    true = xent.cross_entropy(whole, target, reduction="none", **options)
    true.sum().backward()
    atol = 6e-7 if "softcap" in options else 1e-7
    torch.testing.assert_close(loss.double(), true.detach(), rtol=4e-7, atol=atol, equal_nan=True)
    finite = torch.tensor([name not in ("nothing but masks", "not a number", "infinite", "ignored") for name in ROWS])
    assert bool(gradient[finite].isfinite().all())
    assert not bool(gradient[-1].any())  # ignored
    unit = torch.finfo(dtype).eps
    torch.testing.assert_close(gradient[finite].double(), whole.grad[finite], rtol=unit, atol=3e-7)
    row = 8 if dtype != torch.float32 and "softcap" not in options else 10
    assert sent == [("gather", 72), ("gather", 8 + row * 9)]


def test_the_ways_of_plain_rows_send_the_same():
    """Rows and classes in several dimensions and strides; a rank must not care which way another takes."""
    logits = torch.randn(4, 5, 3).transpose(0, 2) * 4
    target = torch.randint(5, (3, 4)).masked_fill(torch.rand(3, 4) < 0.2, -100)
    logits = logits.transpose(1, 2)
    found = {way: plain_rows(logits, target, backends) for way, backends in WAYS.items()}
    loss, gradient, _ = found["formula"]
    for other in ("kernels", "both"):
        torch.testing.assert_close(found[other][0], loss, rtol=2e-7, atol=0)
        torch.testing.assert_close(found[other][1], gradient, rtol=1e-6, atol=1e-8)
    assert torch.equal(found["both"][0], loss)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_common_offset_costs_no_digit(dtype):
    logits = (torch.randn(6, 5) * 2 + 1e4).to(dtype)
    target = torch.tensor([0, 1, 2, 3, 4, 0])
    loss, _, gradient = over_ranks(logits, target)
    whole = logits.double().requires_grad_()
    true = xent.cross_entropy(whole, target)
    true.backward()
    torch.testing.assert_close(loss.double(), true.detach(), rtol=1e-6, atol=0)
    rounding = max(1e-6, torch.finfo(dtype).eps)
    torch.testing.assert_close(gradient.double(), whole.grad, rtol=rounding, atol=1e-7)


@pytest.mark.parametrize("target", [torch.full((3,), -100), torch.empty(0, dtype=torch.int64)])
def test_no_row_counts(target):
    logits = torch.zeros(len(target), 5)
    loss, _, gradient = over_ranks(logits, target)
    assert loss.isnan()
    assert gradient.shape == logits.shape
    assert float(over_ranks(logits, target, reduction="sum")[0]) == 0
    assert float(over_ranks(logits, target, normalizer=3)[0]) == 0


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_a_second_derivative_raises(backend):
    """Beside a term that has one, too: a gradient that was constant in silence would be a wrong one."""

    def work(ranks: ThreadRanks):
        part = torch.randn(2, 3, dtype=torch.float64).requires_grad_()
        with xent.backend(backend):
            loss = vocab_parallel_cross_entropy(part, torch.tensor([0, 4]), group=ranks)
        (first,) = torch.autograd.grad(loss + part.square().sum(), part, create_graph=True)
        first.sum().backward()

    def linear(ranks: ThreadRanks):
        hidden, weight = torch.randn(2, 3).requires_grad_(), torch.randn(3, 3)
        with xent.backend(backend):
            loss = vocab_parallel_linear_cross_entropy(hidden, weight, torch.tensor([0, 4]), group=ranks)
        torch.autograd.grad(loss, hidden, create_graph=True)[0].sum().backward()

    for error in [*on_ranks(2, work), *on_ranks(2, linear)]:
        assert isinstance(error, RuntimeError)
        assert "a second derivative of a loss over ranks" in str(error)


ENTRY, HEADER, COUNTED = 4, ("gather", 72), 6  # bytes of a number; the first message; rows that count


def bytes_of_row(dtype, target, stats, options):
    """What the docstring of vocab_parallel_cross_entropy says."""
    if target == "indices" and not options and not stats and dtype != torch.float64:
        return 10 if dtype == torch.float32 else 8
    numbers = (
        1 + ("weight" in options and target == "indices") + (target != "indices")
    )  # of the target: it adds, w, mass
    indices = 0
    if stats:
        numbers, indices = numbers + 2 + (target == "probabilities"), 1 + (target == "probabilities")
    if target == "indices" and not options and dtype != torch.float64:
        return (10 if dtype == torch.float32 else 8) + 4 * 2 + 4
    wide = 2 if dtype == torch.float64 else 1
    return wide * (8 + 4 * numbers) + 4 * indices


@pytest.mark.parametrize("stats", [False, True])
@pytest.mark.parametrize("target", ["indices", "probabilities", "sparse"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_messages_are_those_that_the_docstrings_say(dtype, target, stats):
    """Two collectives forward, one backward for the linear loss, whatever the options; and the bytes of each."""
    logits = torch.randn(7, 6).to(dtype)
    indices = torch.tensor([0, 1, -100, 3, 4, 5, 0])
    soft = torch.rand(7, 6, dtype=dtype)
    two = torch.stack([indices, indices.where(indices < 0, 2)], -1)
    given = {"indices": indices, "sparse": xent.SparseTarget(two, torch.full((7, 2), 0.5, dtype=dtype))}
    choices = ({}, {"label_smoothing": 0.1}, {"weight": torch.rand(6, dtype=dtype)}, {"z_loss": 0.1, "softcap": 5.0})

    def work(ranks: ThreadRanks):
        here, sent = slice(3 * ranks.rank, 3 * ranks.rank + 3), []
        own_target = soft[:, here] if target == "probabilities" else given[target]
        for options in choices:
            own = {name: value[here] if name == "weight" else value for name, value in options.items()}
            hidden, weight = (torch.randn(n, 4).to(dtype).requires_grad_() for n in (7, 3))
            call = {"group": ranks, "stats": stats, **own}
            loss = vocab_parallel_cross_entropy(logits[:, here].clone().requires_grad_(), own_target, **call)
            (loss[0] if stats else loss).backward()
            loss = vocab_parallel_linear_cross_entropy(hidden, weight, own_target, **call)
            (loss[0] if stats else loss).backward()
            sent.append(list(ranks.sent))
            ranks.sent.clear()
        return sent

    rows = 7 if target == "probabilities" else COUNTED
    expected = []
    for options in choices:
        plain = {} if "z_loss" in options else options  # the z-term and the soft cap travel in the log-sum-exp
        states = ("gather", 8 + rows * bytes_of_row(dtype, target, stats, plain))
        if "softcap" in options and target == "indices" and dtype == torch.bfloat16:
            states = ("gather", states[1] + 2 * rows)  # a capped logit is no number of bfloat16
        sum_ = ("add", dtype.itemsize * (4 * rows + 1))
        expected.append([HEADER, states, HEADER, states, sum_])
    for found in on_ranks(2, work):
        assert found == expected, found


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("target", [torch.full((3,), -100), torch.empty(0, dtype=torch.int64)], ids=["ignored", "none"])
def test_plain_rows_of_which_none_counts(way, reduction, target):
    """0, and 0/0 for the mean; the gradient is 0, or NaN where the mean is: as one process has it."""
    logits = torch.randn(len(target), 5)
    loss, gradient, sent = plain_rows(logits, target, WAYS[way], reduction=reduction)
    whole = logits.clone().requires_grad_()
    true = xent.cross_entropy(whole, target, reduction=reduction)
    true.sum().backward()
    torch.testing.assert_close(loss, true.detach(), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(gradient, whole.grad, rtol=0, atol=0, equal_nan=True)
    assert sent == [HEADER, ("gather", 8)]


DIFFERING = {
    "a number": ({"normalizer": 7.0}, {"normalizer": 7.5}),
    "a tensor": ({"normalizer": torch.tensor(7.0)}, {"normalizer": torch.tensor(8.0)}),
    "row weights": ({"row_weight": torch.tensor([1.0, 2.0, 3.0])}, {"row_weight": torch.tensor([1.0, 2.0, 4.0])}),
    "half": ({"row_weight": torch.ones(3).half()}, {"row_weight": torch.full((3,), 2.0).half()}),
}


@pytest.mark.parametrize("name", DIFFERING)
def test_ranks_with_other_weights_of_rows_or_normalizers_are_told(name):
    """Each rank would have a loss of its own."""
    target = torch.tensor([0, 1, 4])

    def work(ranks: ThreadRanks, options):
        return vocab_parallel_cross_entropy(torch.zeros(3, 3), target, group=ranks, **options[ranks.rank])

    for error in on_ranks(2, lambda ranks: work(ranks, DIFFERING[name])):
        assert isinstance(error, OptionError), error
        assert "the values of row_weight and normalizer" in str(error)
    same = DIFFERING[name][1]
    again = {key: value.clone() if torch.is_tensor(value) else int(2 * value) / 2 for key, value in same.items()}
    for loss in on_ranks(2, lambda ranks: work(ranks, (same, again))):
        assert isinstance(loss, torch.Tensor), loss


@pytest.mark.parametrize("target", [[0, -1], [3, 0]], ids=["below", "above"])
def test_a_row_without_a_class_weight_is_an_error(target):
    """Class -1 must not count as the last one does."""
    weight = torch.tensor([1.0, 2.0, 4.0])
    with pytest.raises(TargetRangeError, match="1 of 2 targets are out of bounds"):
        global_row_count(torch.tensor(target), None, weight=weight)
    assert float(global_row_count(torch.tensor([2, -100, 0]), None, weight=weight)) == 5
    assert float(global_row_count(torch.tensor([2, -1, 0]), None, weight=weight, ignore_index=-1)) == 5
    assert float(global_row_count(torch.empty(0, dtype=torch.int64), None, weight=weight)) == 0
    with pytest.raises(ShapeError, match="one number for each class"):
        global_row_count(torch.tensor([0]), None, weight=weight.view(1, 3))
    with pytest.raises(DtypeError, match="weight is a list"):
        global_row_count(torch.tensor([0]), None, weight=[1.0, 2.0])  # pyright: ignore[reportArgumentType]


def test_results_are_the_same_to_the_last_bit_every_time():
    logits, target = torch.randn(50, 5), torch.randint(5, (50,))
    first, again = (over_ranks(logits, target) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[2], again[2])
