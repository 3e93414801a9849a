"""Large parameters are compared and taken apart a block at a time: with the same result."""

from __future__ import annotations

import pytest
import torch

import xent
from xent.inspection import _step_facts, _tensor_summary


def ledger_of(shape: tuple[int, ...], turned: bool = False) -> xent.StepLedger:
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(*shape, generator=generator)
    parameter = torch.nn.Parameter(value.t() if turned else value)
    optimizer = torch.optim.Adam([parameter], lr=0.01, weight_decay=0.1, amsgrad=True)
    for _ in range(3):
        parameter.grad = torch.randn(parameter.shape, generator=generator)
        with xent.step({"p": parameter}, optimizer) as ledger:
            optimizer.step()
    return ledger


@pytest.mark.parametrize("turned", [False, True])
def test_blocks_come_to_what_the_whole_comes_to(monkeypatch, turned):
    whole = ledger_of((37, 11), turned).accounts[0]
    assert whole.equality.holds
    monkeypatch.setattr(_step_facts, "BLOCK", 64)
    cut = ledger_of((37, 11), turned).accounts[0]
    assert cut.equality == whole.equality
    assert cut.predicted == pytest.approx(whole.predicted, rel=1e-12)  # float64 sums in another order
    assert [part.cause for part in cut.parts] == [part.cause for part in whole.parts]
    for one, other in zip(cut.parts, whole.parts, strict=True):
        assert (one.share, one.norm) == pytest.approx((other.share, other.norm), rel=1e-12)


def test_a_wrong_entry_is_found_in_its_block(monkeypatch):
    monkeypatch.setattr(_step_facts, "BLOCK", 64)
    account = ledger_of((37, 11)).accounts[0]
    account.record.after[20, 3] += 1.0
    account.record.after[2, 1] += 0.5
    equality = account.equality
    assert (equality.apart, equality.count, equality.worst) == (2, 37 * 11, (20, 3))
    assert equality.value == pytest.approx(equality.derived + 1.0)


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_entries_that_are_not_finite(monkeypatch, bad):
    monkeypatch.setattr(_step_facts, "BLOCK", 64)
    account = ledger_of((37, 11)).accounts[0]
    account.record.after[0, 0], account.record.after[30, 0] = bad, -bad
    assert account.equality.apart == 2
    assert not torch.isfinite(torch.tensor(account.predicted))
    assert len(account.parts) == 3


@pytest.mark.parametrize("size", [1.0, 1e-35, 3e38])
def test_a_histogram_counts_every_entry_in_its_bin(size):
    """Against exact edges; an entry within rounding of an edge may lie on either side of it."""
    values = torch.randn(200_000, generator=torch.Generator().manual_seed(1)).clamp(-2, 2) / 2 * size
    found = _tensor_summary.summary(values)
    exact = values.double() / found.end
    edges = torch.linspace(-1, 1, 12, dtype=torch.float64)
    expected = torch.histogram(exact, edges).hist.long()
    near = sum(int(((exact - edge).abs() < 1e-6).sum()) for edge in edges[1:-1])
    assert sum(found.histogram) == len(values)
    assert (torch.tensor(found.histogram) - expected).abs().max() <= near
