"""The kernels under torch's autograd: what they serve themselves, and what the reference formula differentiates."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck

import xent

TARGET = torch.tensor([0, 3, -100, 2])


def native_loss(x: torch.Tensor, **options: object) -> torch.Tensor:
    with xent.backend("native"):
        return xent.cross_entropy(x, TARGET, **options)


def native_stats(x: torch.Tensor) -> torch.Tensor:
    with xent.backend("native"):
        loss, rows = xent.cross_entropy(x, TARGET, stats=True, z_loss=0.01, softcap=3.0)
    return loss + rows.lse.square().mean() + 0.3 * rows.entropy.sum() + rows.z_loss.sum()


def test_first_and_second_derivatives() -> None:
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    for loss in (native_loss, native_stats, lambda t: native_loss(t, label_smoothing=0.1, reduction="none")):
        assert gradcheck(loss, x, check_batched_grad=True)
        assert gradgradcheck(loss, x)


def test_the_logits_are_not_modified_and_a_later_change_is_noticed() -> None:
    x = torch.randn(4, 5)
    leaf = x.clone().requires_grad_()
    held = leaf * 1
    loss = native_loss(held)
    assert torch.equal(held, x)
    with torch.no_grad():
        held.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: (torch.empty(4, 1 << 20, device="meta"), TARGET), "run on the CPU"),
        (lambda: (torch.randn(4, 5).to(torch.float8_e4m3fn), TARGET), "float8_e4m3fn"),
    ],
)
def test_refusals_have_reasons(make: object, words: str) -> None:
    choice = xent.choices(*make())
    assert choice.chosen == "reference"
    assert words in choice.rejected["native"]


def test_transforms_are_refused_by_name_and_served_automatically() -> None:
    x = torch.randn(4, 5)
    with pytest.raises(xent.errors.BackendError, match=r"torch\.func"):
        torch.func.grad(native_loss)(x)
    with forward_ad.dual_level(), pytest.raises(xent.errors.BackendError, match="forward-mode"):
        native_loss(forward_ad.make_dual(x, torch.ones_like(x)))
    automatic = torch.func.grad(lambda t: xent.cross_entropy(t, TARGET, z_loss=0.1))(x)
    leaf = x.clone().requires_grad_()
    native_loss(leaf, z_loss=0.1).backward()
    torch.testing.assert_close(automatic, leaf.grad)


def test_a_tiny_plain_loss_is_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(4, 5, requires_grad=True)
    assert "NllLoss" in type(xent.cross_entropy(x, TARGET).grad_fn).__name__
    with pytest.raises(xent.errors.TargetRangeError):
        xent.cross_entropy(x, torch.tensor([0, 1, 2, 5]))
    with pytest.raises(xent.errors.OptionError):
        xent.cross_entropy(x, TARGET, reduction="median")


def test_large_problems_run_on_the_kernels() -> None:
    x = torch.randn(700, 900)
    assert xent.choices(x).chosen == "native"
    torch.testing.assert_close(
        xent.cross_entropy(x, torch.arange(700)), torch.nn.functional.cross_entropy(x, torch.arange(700))
    )


def test_a_target_made_from_the_logits_adds_its_path_once() -> None:
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)

    def loss(t: torch.Tensor) -> torch.Tensor:
        with xent.backend("native"):
            return xent.cross_entropy(t, t.square().softmax(1), t[0].exp(), row_weight=t[:, 0].exp(), z_loss=0.1)

    assert gradcheck(loss, x)
    assert gradgradcheck(loss, x)
