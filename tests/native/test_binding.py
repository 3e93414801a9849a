"""What the binding refuses, and that nothing brings the interpreter down."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch

import xent
from xent.backends.native import _kernels as k
from xent.errors import BackendError

X, Y = torch.randn(4, 5), torch.tensor([0, 1, 2, 3])
GRADIENT = torch.empty(4, 5)


def misaligned(x: torch.Tensor) -> torch.Tensor:
    memory = bytearray(x.numel() * x.itemsize + 1)
    return torch.frombuffer(memory, dtype=x.dtype, offset=1, count=x.numel()).view(x.shape).copy_(x)


def loss_of(problem: object, **outputs: object) -> int:
    return k.cross_entropy(problem, {"loss": torch.empty(4), **outputs}, 1)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((X, None), ValueError),
        ((X, Y, X), ValueError),
        ((X, Y[:2]), ValueError),
        ((X, Y.int()), TypeError),
        ((X.int(), Y), TypeError),
        ((X.to(torch.complex64), Y), TypeError),
        ((X, None, X[:, :3]), ValueError),
        ((X, Y, None, torch.ones(3)), ValueError),
        ((X, Y, None, torch.ones(5).double()), TypeError),
        ((X, Y, None, torch.ones(10)[::2]), ValueError),
        ((X, Y, None, None, torch.ones(5)), ValueError),
        ((misaligned(X), Y), ValueError),
        ((X, misaligned(Y)), ValueError),
        ((X, Y, None, misaligned(torch.ones(5))), ValueError),
        ((torch.tensor(1.0), Y), ValueError),
        ((torch.empty(4, 0), Y), ValueError),
        ((X.to("meta"), Y), (TypeError, ValueError, RuntimeError, BufferError, NotImplementedError)),
        ((X.to_sparse(), Y), (TypeError, ValueError, RuntimeError, BufferError)),
        (("logits", Y), TypeError),
        ((None, Y), TypeError),
    ],
)
def test_a_wrong_problem_raises(arguments: tuple[object, ...], error: type[Exception]) -> None:
    with pytest.raises(error):
        k.Problem(*arguments)


@pytest.mark.parametrize(
    ("outputs", "error"),
    [
        ({"loss": torch.empty(3)}, ValueError),
        ({"loss": torch.empty(4).double()}, TypeError),
        ({"loss": torch.empty(1).expand(4)}, ValueError),
        ({"loss": misaligned(torch.empty(4))}, ValueError),
        ({"exact_lse": torch.empty(4)}, TypeError),
        ({"prediction": torch.empty(4)}, TypeError),
        ({"nonsense": torch.empty(4)}, ValueError),
        ({"loss": None}, (TypeError, RuntimeError)),
        ({3: torch.empty(4)}, (TypeError, RuntimeError)),
    ],
)
def test_a_wrong_output_raises(outputs: dict[object, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        k.cross_entropy(k.Problem(X, Y), outputs, 1)


def test_a_read_only_output_raises() -> None:
    locked = np.zeros(4, dtype=np.float32)
    locked.flags.writeable = False
    with pytest.raises((TypeError, RuntimeError)):
        loss_of(k.Problem(X, Y), loss=locked)
    gradient = np.zeros((4, 5), dtype=np.float32)
    gradient.flags.writeable = False
    with pytest.raises(TypeError):
        k.cross_entropy_gradient(k.Problem(X, Y), k.Upstream(saved_lse=torch.zeros(4).double()), gradient, False, 1)


def test_wrong_gradients_and_threads_raise() -> None:
    problem, upstream = k.Problem(X, Y), k.Upstream(torch.ones(4), saved_lse=torch.zeros(4, dtype=torch.float64))
    for gradient, error in (
        (torch.empty(4, 4), ValueError),
        (torch.empty(4, 5).double(), TypeError),
        (torch.empty(1, 5).expand(4, 5), ValueError),
        (misaligned(torch.empty(4, 5)), ValueError),
    ):
        for streaming in (False, True):
            with pytest.raises(error):
                k.cross_entropy_gradient(problem, upstream, gradient, streaming, 1)
    with pytest.raises(ValueError, match="saved_lse"):
        k.cross_entropy_gradient(problem, k.Upstream(torch.ones(4)), torch.empty(4, 5), False, 1)
    for threads in (0, -1, 10**6):
        with pytest.raises(ValueError, match="threads"):
            k.cross_entropy_gradient(problem, upstream, torch.empty(4, 5), False, threads)


def test_a_bad_target_is_reported_not_read() -> None:
    for bad in (5, -1, 2**62, -(2**63)):
        assert loss_of(k.Problem(X, torch.tensor([0, bad, 1, bad]))) == 1


def test_arrays_stay_alive_without_their_names() -> None:
    problem = k.Problem(torch.randn(4, 5), torch.tensor([0, 1, 2, 3]))
    junk = [torch.full((4, 5), float("nan")) for _ in range(100)]
    loss = torch.empty(4)
    assert loss_of(problem, loss=loss) == -1
    assert loss.isfinite().all()
    del junk


def test_expanded_outputs_of_logsumexp_raise() -> None:
    lse, exact = torch.empty(4), torch.empty(4, dtype=torch.float64)
    for outputs in ((lse[:1].expand(4), exact), (lse, exact[:1].expand(4))):
        with pytest.raises(ValueError, match="is expanded"):
            k.logsumexp(X, *outputs, 1)


def test_streaming_stores_into_a_misaligned_gradient_raise() -> None:
    """They need whole vectors of 32 or 64 bytes, which no number of elements leads to from there."""
    x, y = torch.randn(64, 300), torch.zeros(64, dtype=torch.int64)
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        rows = k.Problem(x.to(dtype), y)
        upstream = k.Upstream(
            torch.ones(64, dtype=torch.float64 if dtype == torch.float64 else torch.float32),
            saved_lse=torch.zeros(64, dtype=torch.float64),
        )
        with pytest.raises(ValueError, match="no multiple of its element size"):
            k.cross_entropy_gradient(rows, upstream, misaligned(torch.empty(64, 300, dtype=dtype)), True, 1)


def test_an_isa_that_is_not_here_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XENT_ISA", "avx1024")
    message = r"XENT_ISA is 'avx1024'; this machine and build run scalar.*: choose one of these, or unset XENT_ISA"
    for call in (k.isa, lambda: xent.cross_entropy(torch.zeros(1, 1 << 19), torch.tensor([0]))):
        with pytest.raises(BackendError, match=message):
            call()


def test_random_arguments_never_crash() -> None:
    rng = random.Random(0)
    pool = [
        None,
        3,
        -1.5,
        "x",
        X,
        X.double(),
        X.bfloat16(),
        X.t(),
        X[::2, 1:],
        X[:0],
        X[:, :0],
        torch.empty(1, 5).expand(4, 5),
        Y,
        Y.int(),
        Y[:0],
        torch.ones(4),
        torch.ones(5),
        torch.ones(4).double(),
        misaligned(X),
        misaligned(torch.ones(4)),
        misaligned(torch.ones(4).double()),
        misaligned(Y),
        np.zeros((4, 5), np.float32),
        np.zeros(4, np.int64),
        np.zeros((4, 5), np.float32)[::-1, ::-1],
        {},
        {"loss": torch.empty(4)},
        torch.randn(2, 1, 3, 1, 2, 1, 2, 1, 2, 2, 2).transpose(0, 4),
        torch.zeros(8 + 4 * 10, dtype=torch.uint8),
        torch.full((2, 8 + 4 * 10), 7, dtype=torch.uint8),
        torch.empty(0, dtype=torch.uint8),
        torch.tensor([5, -1, 2**62, -(2**63)]),
        [0, 5],
        [0, 2**62],
        [9, 5, -1],
        [],
    ]
    functions = [
        lambda a, b, c, d: k.cross_entropy(k.Problem(a, b, c, d), {"loss": torch.empty(4)}, 2),
        lambda a, b, c, d: k.cross_entropy_gradient(
            k.Problem(a, b), k.Upstream(c, saved_lse=d), torch.empty(4, 5), False, 2
        ),
        lambda a, b, c, d: k.cross_entropy_gradient(k.Problem(a, Y), k.Upstream(b, saved_lse=c), d, True, 2),
        lambda a, b, c, d: k.logsumexp(X, a, b, 1),
        lambda a, b, c, d: k.cross_entropy(k.Problem(X, Y, None, a, b), c, 1),
        lambda a, b, c, d: k.log_softmax(a, torch.empty(4, 5), 1),
        lambda a, b, c, d: k.log_softmax_gradient(a, b, torch.empty(4, 5), 1),
        lambda a, b, c, d: k.logsumexp(a, torch.empty(4), torch.empty(4, dtype=torch.float64), 1),
        lambda a, b, c, d: k.binary_cross_entropy(a, b, c, d, torch.empty(4, 5), 1),
        lambda a, b, c, d: k.nll_loss(k.Problem(a, b, None, c, d), {"loss": torch.empty(4)}, 1),
        lambda a, b, c, d: k.apply("exp", a, torch.empty(4)),
        lambda a, b, c, d: k.cross_entropy_both(k.Problem(a, b, c), {"loss": torch.empty(4)}, d, torch.empty(4, 5), 2),
        lambda a, b, c, d: k.cross_entropy_both(k.Problem(X, Y), {"loss": a, "weight": b}, c, d, 1),
        lambda a, b, c, d: (k.Problem(a, b, c, d).counted_rows(), k.Problem(a, b, c, d).is_one_pass()),
        lambda a, b, c, d: k.sum_of_rows(a, 2),
        lambda a, b, c, d: k.ShardRows(a, b, c, -100, 0.0, 1.0).counted(),
        lambda a, b, c, d: k.ShardRows(X, Y, -(2**62), 1, 2.0, 3.0).encode(a, b, c, d, 2),
        lambda a, b, c, d: k.ShardRows(X, Y, 2**62, 1, 0.0, 1.0).merge(a, b, 0.1, c, d, 2),
        lambda a, b, c, d: k.ShardRows(a, Y, 1, -1, 0.0, 1.0).put_target_gradients(b, c, d, torch.empty(4, 5), 2),
    ]
    refused = 0
    for _ in range(8000):
        try:
            rng.choice(functions)(*(rng.choice(pool) for _ in range(4)))
        except (TypeError, ValueError, RuntimeError, BufferError):
            refused += 1
    assert 0 < refused < 8000


ROW_SUMS = (torch.zeros(4), torch.zeros(4).double(), torch.zeros(4).double())
MESSAGE = torch.zeros(8 + 4 * 10, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda rows: k.ShardRows(X.double(), Y, 0, -100, 0.0, 1.0), TypeError),
        (lambda rows: k.ShardRows(X, Y[:2], 0, -100, 0.0, 1.0), ValueError),
        (lambda rows: k.ShardRows(X, Y.int(), 0, -100, 0.0, 1.0), TypeError),
        (lambda rows: rows.encode(*ROW_SUMS, MESSAGE[:-1], 1), ValueError),
        (lambda rows: rows.encode(*ROW_SUMS, MESSAGE.to(torch.int8), 1), TypeError),
        (lambda rows: rows.encode(None, None, None, MESSAGE, 1), ValueError),
        (lambda rows: rows.encode(ROW_SUMS[0], None, None, MESSAGE, 1), ValueError),
        (lambda rows: rows.encode(ROW_SUMS[0][:3], *ROW_SUMS[1:], MESSAGE, 1), ValueError),
        (lambda rows: rows.merge(MESSAGE.view(1, -1), [0, 5, 9], 0.0, *ROW_SUMS[:2], 1), ValueError),
        (lambda rows: rows.merge(MESSAGE, [0, 5], 0.0, *ROW_SUMS[:2], 1), ValueError),
        (lambda rows: rows.merge(MESSAGE.view(2, -1), [0, 5, 9], 0.0, *ROW_SUMS[:2], 1), ValueError),
        (
            lambda rows: rows.merge(MESSAGE.view(1, -1), [0, 5], 0.0, ROW_SUMS[0][:1].expand(4), ROW_SUMS[1], 1),
            ValueError,
        ),
        (lambda rows: rows.merge(MESSAGE.view(1, -1), [0, 5], 0.0, *ROW_SUMS[:2], 0), ValueError),
        (lambda rows: rows.put_target_gradients(ROW_SUMS[1], ROW_SUMS[0], None, GRADIENT[:, :3], 1), ValueError),
        (lambda rows: rows.put_target_gradients(ROW_SUMS[0], ROW_SUMS[0], None, GRADIENT, 1), TypeError),
    ],
)
def test_a_wrong_shard_raises(call: Callable[[k.ShardRows], object], error: type[Exception]) -> None:
    with pytest.raises(error):
        call(k.ShardRows(X, Y, 0, -100, 0.0, 1.0))
