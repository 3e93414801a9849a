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
