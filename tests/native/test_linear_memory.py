"""The memory of linear + cross-entropy on the kernels: what plans promise, and what a process is seen to take."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.native.allocations import peak_of_tensors
from torch import Tensor

import xent
from xent.backends.native import linear_cross_entropy as kernel
from xent.backends.native import linear_plan
from xent.backends.native.linear_plan import MIB, Plan, Size, plan
from xent.errors import BackendError
from xent.problem import HALF

ROOT = Path(__file__).parents[2]


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
    weight_gradient=st.booleans(),
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


GEMMA = Size(1024, 2304, 256000, 4, half=False, weight_gradient=True, sliced=True)


def test_no_more_rows_than_features_need_one_tile() -> None:
    """A trained weight's gradient holds the logits: one tile beside it, and as fast as with all memory there is."""
    cut = plan(GEMMA, None, with_gradient=True)
    assert (cut.by, cut.in_gradient) == ("classes", True)
    assert cut.kept_tiles == -(-GEMMA.classes // cut.step) - 1
    assert cut.extra_bytes <= 18 * MIB
    for other in (
        replace(GEMMA, weight_gradient=False),
        replace(GEMMA, rows=GEMMA.features + 1),
        replace(GEMMA, sliced=False),
    ):
        assert not plan(other, None, with_gradient=True).in_gradient


def test_too_little_memory_is_an_error() -> None:
    with pytest.raises(BackendError, match="max_memory=10 bytes for logits of 3 × 5"):
        xent.linear_cross_entropy(torch.zeros(3, 4), torch.zeros(5, 4), torch.tensor([0, 1, 2]), max_memory=10)


KINDS = {  # of input and target, what is beside them
    "": {},
    "ignored": {"ignored": True},
    "shift": {"shift": 1},
    "dim": {"dim": 1},
    "soft": {"soft": True},
    "soft smoothed": {"soft": True, "label_smoothing": 0.1},
    "soft smoothed dim": {"soft": True, "label_smoothing": 0.1, "dim": 1},
    "soft shift": {"soft": True, "shift": 1},
    "sparse": {"sparse": True},
    "none": {"reduction": "none"},
    "stats": {"stats": True},
    "weights": {"bias": True, "weights": True, "ignored": True, "shift": 1},
    "strided": {"strided": True},
    "top": {"top": 5},
}


def layer(dtype: torch.dtype, rows: int, features: int, classes: int, kind: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call."""
    options = {name: value for name, value in kind.items() if name in ("label_smoothing", "reduction", "stats")}
    hidden, head = torch.randn(rows, features).to(dtype), torch.randn(classes, features).to(dtype)
    target = torch.randint(0, classes, (rows,))
    if "soft" in kind:
        target = torch.rand(rows, classes).to(dtype)
    if "strided" in kind:  # as neither a product nor its transpose reads it
        hidden, head = (x.repeat_interleave(2, 1)[:, ::2] for x in (hidden, head))
    if "shift" in kind or "dim" in kind:
        hidden, target = hidden.view(4, -1, features), target.view(4, -1, *target.shape[1:])
        options |= {name: kind[name] for name in ("shift", "dim") if name in kind}
    if "dim" in kind:
        hidden = hidden.transpose(1, 2).contiguous()
        target = target.transpose(1, 2).contiguous() if "soft" in kind else target
    if "ignored" in kind:
        target[..., ::2] = -100
    if "sparse" in kind:
        target = xent.SparseTarget(torch.randint(0, classes, (rows, 4)), torch.rand(rows, 4))
    if "weights" in kind:
        options |= {"weight": torch.rand(classes), "row_weight": torch.rand(target.shape)}
    if "bias" in kind:
        options["linear_bias"] = torch.randn(classes).to(dtype).requires_grad_()
    return {"input": hidden.requires_grad_(), "linear_weight": head.requires_grad_(), "target": target} | options


def step(given: dict[str, Any], bound: int | None, top: int = 0) -> None:
    """Forward and backward."""
    if top:
        scores = xent.token_logprobs(given.pop("input"), given.pop("target"), **given, entropy=True, top=top)
        (scores.logprob.sum() + scores.top_logprobs.sum() + scores.entropy.sum()).backward()
        return
    loss = xent.linear_cross_entropy(**given, max_memory=bound)
    if given.get("stats"):
        loss, rows = loss
        loss = loss + rows.entropy.sum() + rows.lse.sum()
    loss.sum().backward()


WAYS = [
    (torch.float32, "rows", False),
    (torch.float32, "classes", False),
    (torch.float64, "rows", False),
    (torch.float64, "classes", False),
    *[(torch.bfloat16, by, widens) for by in ("rows", "classes", "both") for widens in (False, True)],
]
FIRST = [WAYS[i] for i in (0, 1, 5, 7, 9)]


SHAPES = {(256, 24, 800): 400_000, (60, 64, 8000): 330_000, (3000, 8, 40): 2_000_000}  # numbers that memory holds


@pytest.mark.parametrize("shape", [*list(SHAPES)[:2], pytest.param((3000, 8, 40), marks=pytest.mark.slow)])
@pytest.mark.parametrize("way", [pytest.param(way, marks=() if way in FIRST else pytest.mark.slow) for way in WAYS])
def test_no_tensor_is_left_out_of_a_plan(
    way: tuple[torch.dtype, str, bool], shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What torch allocates, to the byte, is at most what the plan says, and that at most the bound."""
    (dtype, by, widens), wrong = way, []
    cuts: list[Plan] = []
    least = SHAPES[shape] * dtype.itemsize
    for other in {"rows": ["_by_classes"], "classes": ["_by_rows"], "both": ["_by_rows", "_by_classes"]}[by]:
        monkeypatch.setattr(linear_plan, other, lambda *_: None)
    monkeypatch.setattr(kernel, "widened", lambda of: widens and of in HALF)
    monkeypatch.setattr(kernel, "plan", lambda *size, **how: cuts.append(plan(*size, **how)) or cuts[-1])
    for name, kind in KINDS.items():
        cuts.clear()
        copied = (shape[1] * shape[2] * dtype.itemsize) * ("strided" in kind)  # the weight, in an order for products
        given, bound = layer(dtype, *shape, kind), None if "top" in kind else least + copied
        leaves = [x for x in given.values() if isinstance(x, Tensor) and x.requires_grad]
        taken = peak_of_tensors(partial(step, given, bound, kind.get("top", 0)))
        extra = taken - sum(leaf.numel() * leaf.element_size() for leaf in leaves)
        promised = max(cut.extra_bytes for cut in cuts)
        if extra > promised or promised > (bound or 64 * MIB):
            wrong.append(f"{name}: {extra} bytes, bound {bound}, {cuts[-1]!r}")
    assert not wrong, "\n".join(wrong)


def test_no_counted_row_needs_no_memory() -> None:
    """A batch whose rows are all ignored fits wherever a batch does."""
    hidden, head = torch.randn(4, 8, requires_grad=True), torch.randn(100_000, 8, requires_grad=True)
    for dtype in (torch.float32, torch.bfloat16):
        loss = xent.linear_cross_entropy(
            hidden.to(dtype), head.to(dtype), torch.full((4,), -100), max_memory=1, reduction="sum"
        )
        loss.backward()
        assert loss == 0
    assert hidden.grad is not None
    assert not hidden.grad.any()


@settings(max_examples=100, deadline=None)
@given(SIZES.filter(lambda size: size.rows > 0), st.booleans(), st.booleans())
def test_the_least_memory_that_an_error_names_is_enough(size: Size, half: bool, widened: bool) -> None:
    size = replace(size, item=2, half=True, widened=widened) if half else size
    with pytest.raises(BackendError, match=r"the smallest cut takes (\d+) bytes") as error:
        plan(size, 1, with_gradient=True)
    least = int(str(error.value).split("takes ")[1].split()[0])
    assert plan(size, least, with_gradient=True).extra_bytes <= least
    with pytest.raises(BackendError):
        plan(size, least - 1, with_gradient=True)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_too_little_memory_for_a_gradient_raises_before_the_backward_pass(
    reduction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half logits of a few rows fit, but neither a float32 sum nor a tile of classes."""
    monkeypatch.setattr(kernel, "widened", lambda of: False)
    hidden, head = torch.randn(600, 64).bfloat16(), torch.randn(400, 64).bfloat16()
    target, bound = torch.zeros(600, dtype=torch.long), 100_000
    assert xent.linear_cross_entropy(hidden, head, target, max_memory=bound).isfinite()
    with pytest.raises(BackendError, match="smallest cut"):
        xent.linear_cross_entropy(hidden, head.requires_grad_(), target, max_memory=bound, reduction=reduction)
    frozen = xent.linear_cross_entropy(hidden.requires_grad_(), head.detach(), target, max_memory=bound)
    frozen.backward()


PEAK = """
import sys, torch, xent
from tests.native.test_linear_memory import KINDS, layer, step
from xent.bench.memory import peak_extra_bytes
dtype, bound, kind = getattr(torch, sys.argv[1]), int(sys.argv[2]), KINDS[sys.argv[3]]
rows, features = map(int, sys.argv[4:])
step(layer(dtype, 64, features, 20000, kind), bound or None)  # loads what it loads
given = layer(dtype, rows, features, 20000, kind)
print(peak_extra_bytes(lambda: step(given, bound or None)))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak resident memory from /proc")
@pytest.mark.parametrize("shape", [(2048, 256), (1024, 1024)])
@pytest.mark.parametrize(
    ("dtype", "bound", "kind"),
    [
        *[("float32", 0, ""), ("float32", 24, ""), ("bfloat16", 0, ""), ("bfloat16", 24, ""), ("bfloat16", 4, "")],
        *[("float32", 16, kind) for kind in ("shift", "ignored", "soft smoothed", "none", "soft smoothed dim")],
        *[("bfloat16", 8, kind) for kind in ("ignored", "soft smoothed")],
    ],
)
def test_peak_memory_is_measured_to_keep_to_the_bound(
    dtype: str, bound: int, kind: str, shape: tuple[int, int]
) -> None:
    """The logits would take 78 MiB at the least; 8 MiB is what a product packs and malloc rounds up.

    0 is the default: 64 MiB, more than a tenth of inputs and gradients. 4 MiB has no room for a float32 sum.
    """
    rows, features = shape
    command = [sys.executable, "-c", PEAK, dtype, str(bound * MIB), kind, str(rows), str(features)]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072"}  # else glibc keeps a chunk that was freed
    out = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment).stdout
    gradients = (20000 + rows) * features * (4 if dtype == "float32" else 2)
    assert int(out) <= gradients + (bound or 64) * MIB + 8 * MIB
