"""The memory of linear + cross-entropy on the kernels: what plans promise, and what a process is seen to take."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import xent
from xent.backends.native.linear_plan import MIB, Size, plan
from xent.errors import BackendError


def test_plans_keep_to_their_memory() -> None:
    for rows, features, classes in ((2048, 768, 50257), (4096, 2048, 32000), (1024, 2304, 256000)):
        for half, widened in ((False, False), (True, False), (True, True)):
            item = 2 if half else 4
            size = Size(rows, features, classes, item, half, weight_gradient=True, sliced=True, widened=widened)
            for bound in (None, 16 * MIB, 64 * MIB, 1 << 34):
                cut = plan(size, bound, with_gradient=True)
                assert cut.extra_bytes <= (size.default_bytes() if bound is None else bound)


counts = st.integers(0, 7).flatmap(lambda digits: st.integers(10**digits // 10, 10**digits))  # of every magnitude
SIZES = st.builds(
    Size,
    rows=counts,
    features=st.integers(1, 16384),
    classes=counts.map(lambda count: count + 1),
    item=st.sampled_from([4, 8]),
    half=st.just(False),
    weight_gradient=st.just(True),
    sliced=st.booleans(),
    gathered=st.booleans(),
    entries=st.sampled_from([1, 2, 64]),
)


@settings(max_examples=400, deadline=None)
@given(SIZES, st.booleans(), st.booleans(), st.booleans())
def test_the_default_memory_never_raises(size: Size, half: bool, widened: bool, with_gradient: bool) -> None:
    """And is kept to wherever one row, and some bytes for each, are a small part of the inputs."""
    size = replace(size, item=2, half=True, widened=widened) if half else size
    cut = plan(size, None, with_gradient=with_gradient)
    assert cut.step >= 1
    common = size.features >= 512 and size.classes <= 10**6 and size.sliced and not size.gathered and size.entries == 1
    assert not common or cut.extra_bytes <= size.default_bytes()


def test_more_memory_is_never_slower() -> None:
    size = Size(2048, 768, 50257, 4, half=False, weight_gradient=True, sliced=True)
    seconds = [plan(size, bound * MIB, with_gradient=True).seconds for bound in (24, 48, 96, 192, 512)]
    assert seconds == sorted(seconds, reverse=True)


def test_too_little_memory_is_an_error() -> None:
    with pytest.raises(BackendError, match="max_memory=10 bytes for logits of 3 × 5"):
        xent.linear_cross_entropy(torch.zeros(3, 4), torch.zeros(5, 4), torch.tensor([0, 1, 2]), max_memory=10)


PEAK = """
import sys, torch, xent
dtype, bound = getattr(torch, sys.argv[1]), int(sys.argv[2])
def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
def step(rows):
    hidden, target = torch.randn(rows, 256).to(dtype).requires_grad_(), torch.randint(0, 20000, (rows,))
    torch.manual_seed(0)
    weight.grad = None
    xent.linear_cross_entropy(hidden, weight, target, max_memory=bound or None).backward()
    return hidden
weight = torch.randn(20000, 256).to(dtype).requires_grad_()
step(64)  # loads what it loads, and the weight's gradient stands
hidden = torch.randn(2048, 256).to(dtype).requires_grad_()
target = torch.randint(0, 20000, (2048,))
held = torch.zeros(weight.numel() + hidden.numel(), dtype=dtype)  # the gradients of the step to come
del held
open("/proc/self/clear_refs", "w").write("5")
before = peak()
weight.grad = None
xent.linear_cross_entropy(hidden, weight, target, max_memory=bound or None).backward()
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak resident memory from /proc")
@pytest.mark.parametrize(
    ("dtype", "bound"),
    [("float32", 0), ("float32", 24 * MIB), ("bfloat16", 0), ("bfloat16", 24 * MIB), ("bfloat16", 3 * MIB)],
)
def test_peak_memory_is_measured_to_keep_to_the_bound(dtype: str, bound: int) -> None:
    """The logits would take 156 MiB in float32, 78 in bfloat16; 8 MiB is what a product packs and malloc rounds up.

    0 is the default: 64 MiB, more than a tenth of inputs and gradients. 3 MiB has no room for a float32 sum.
    """
    out = subprocess.run(
        [sys.executable, "-c", PEAK, dtype, str(bound)], capture_output=True, text=True, check=True
    ).stdout
    gradients = (20000 + 2048) * 256 * (4 if dtype == "float32" else 2)
    assert int(out) <= gradients + (bound or 64 * MIB) + 8 * MIB
