"""More than 2^31 logits: indices are 64 bits wide. Expanded rows keep the memory small."""

from __future__ import annotations

import pytest
import torch

import xent


@pytest.mark.slow
def test_more_than_two_to_the_31_logits() -> None:
    rows, classes = 70000, 32768
    x = torch.randn(classes).bfloat16()
    y = torch.randint(0, classes, (rows,))
    with xent.backend("native"):
        loss = xent.cross_entropy(x.expand(rows, classes), y, reduction="none")
    assert rows * classes > 2**31
    torch.testing.assert_close(loss, -x.float().log_softmax(0)[y])


@pytest.mark.slow
def test_offsets_beyond_two_to_the_31() -> None:
    """5 GiB of bfloat16, of which two rows are touched; the second lies 2.4·10^9 elements from the first."""
    rows, classes, gap = 2, 1000, 2_400_000_000
    memory = torch.empty(gap + classes, dtype=torch.bfloat16)
    x = memory.as_strided((rows, classes), (gap, 1))
    x.copy_(torch.randn(rows, classes))
    y = torch.tensor([3, 999])
    with xent.backend("native"):
        loss = xent.cross_entropy(x, y, reduction="none")
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(x.float(), y, reduction="none"))


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "places"), [(torch.float32, 71), (torch.float64, 37), (torch.bfloat16, 141)])
def test_gradients_of_columns_beyond_the_caches(isa: str, dtype: torch.dtype, places: int) -> None:
    """From 32 MiB on they are stored around the caches; an odd number of places puts each class at another address."""
    x = torch.randn(4, 32000, places).to(dtype).requires_grad_()
    assert x.nbytes > 32 << 20
    y = torch.randint(0, 32000, (4, places))
    y[:, ::7] = -100
    with xent.backend("native"):
        xent.cross_entropy(x, y, reduction="sum").backward()
    assert x.grad is not None
    counted = (y >= 0).unsqueeze(1)
    p = x.detach().double().softmax(1)
    hit = torch.zeros_like(p).scatter_(1, y.clamp(min=0).unsqueeze(1), 1.0)
    wanted = (p - hit) * counted
    # (72 + 12 max |z|) half units of the statistic for sums and exponents (kernel_truth.cpp), and one rounding.
    slack = (72 + 12 * 6) * (2.0**-53 if dtype == torch.float64 else 2.0**-24)
    rounding = torch.finfo(dtype).eps / 2
    error = (x.grad.double() - wanted).abs()
    assert bool((error <= slack * (p + hit) + rounding * wanted.abs()).all())
    assert bool((x.grad.masked_select(~counted) == 0).all())
