"""Numbers of other libraries as options, and limits that are no cases of the edge table."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

import xent
from xent.errors import TargetRangeError

LOGITS = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
TARGET = torch.tensor([0, 4, 2])


def test_numbers_of_numpy_and_fractions_are_numbers() -> None:
    plain = xent.cross_entropy(
        LOGITS, TARGET, ignore_index=2, label_smoothing=0.25, z_loss=0.5, logit_scale=0.5, normalizer=3
    )
    loss = xent.cross_entropy(
        LOGITS,
        TARGET,
        ignore_index=np.int64(2),  # pyright: ignore[reportArgumentType]
        label_smoothing=np.float32(0.25),  # pyright: ignore[reportArgumentType]
        z_loss=np.float64(0.5),
        logit_scale=Fraction(1, 2),  # pyright: ignore[reportArgumentType]
        normalizer=np.int32(3),  # pyright: ignore[reportArgumentType]
    )
    torch.testing.assert_close(loss, plain, rtol=0, atol=0)


def test_no_z_term_is_0_even_where_its_square_overflows() -> None:
    _, rows = xent.cross_entropy(LOGITS + 3e19, TARGET, stats=True)
    assert torch.equal(rows.z_loss, torch.zeros(3))


def test_uint64_targets_beyond_int64_are_refused_and_not_wrapped_to_ignore_index() -> None:
    target = torch.tensor([0, 4, 2**64 - 100], dtype=torch.uint64)
    with pytest.raises(TargetRangeError, match=r"2\*\*63"):
        xent.cross_entropy(LOGITS, target)


def test_make_fx_traces_every_loss() -> None:
    for loss in (
        lambda x: xent.cross_entropy(x, TARGET),
        lambda x: xent.binary_cross_entropy(x.sigmoid(), x.detach().sigmoid()),
    ):
        torch.testing.assert_close(make_fx(loss)(LOGITS)(LOGITS), loss(LOGITS))
