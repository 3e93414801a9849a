"""What linear + cross-entropy on the kernels never makes: a table of rows × classes, and products nobody asked for."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from tests.native.test_linear_cross_entropy import SETTINGS
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import xent
from xent.backends.native import linear_cross_entropy as kernel
from xent.backends.native.linear_plan import Plan, plan


class Products(TorchDispatchMode):
    """Counts matrix products and remembers the largest tensor that was made."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.largest, self.made = 0, 0, set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.count += func.overloadpacket.__name__ in ("mm", "addmm", "addmm_")
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                entries = storage.nbytes() // tensor.element_size()
                self.made.add((storage.data_ptr(), entries))
                self.largest = max(self.largest, entries)
        return result


@pytest.fixture
def seen_by_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the kernels run under a dispatch mode that only watches."""
    from xent.ops import native

    monkeypatch.setattr(native._torch_c, "_len_torch_dispatch_stack", lambda: 0)


@pytest.mark.usefixtures("seen_by_kernels")
@pytest.mark.parametrize("kind", ["hard", "soft", "sparse"])
@pytest.mark.parametrize("learned", [False, True], ids=["", "learned"])
def test_no_table_of_logits_is_ever_made(kind: str, learned: bool) -> None:
    """Any tensor of rows × classes would be larger than all that is made for any option."""
    rows, features, classes = 64, 4, 4096
    target = torch.randint(0, classes, (rows,))
    if kind == "soft":  # the caller's own table, expanded from one row
        target = torch.full((1, classes), 1 / classes).expand(rows, classes)
    if kind == "sparse":
        shares = torch.rand(rows, 8).softmax(1).requires_grad_(learned)
        target = xent.SparseTarget(torch.randint(0, classes, (rows, 8)), shares)
    weights = {name: torch.rand(n, requires_grad=True) for name, n in (("weight", classes), ("row_weight", rows))}
    for options in SETTINGS:
        hidden, head = torch.randn(rows, features), torch.randn(classes, features)
        with Products() as products:
            loss = xent.linear_cross_entropy(
                hidden.requires_grad_(),
                head.requires_grad_(),
                target,
                max_memory=300_000,
                **options,
                **(weights if learned else {}),
            )
            loss.backward()
        assert products.largest < rows * classes
        assert products.count >= 3


LAYOUTS = {
    "leading dimensions": ((8, 8, 4), (4096, 4), {}),
    "dim": ((8, 4, 8), (4096, 4), {"dim": 1}),
    "shift": ((8, 9, 4), (4096, 4), {"shift": 1}),
    "K-dimensional": ((64, 4), (1024, 2, 2, 4), {}),
}


ONE_EACH = [("mean", False, torch.bfloat16), ("none", True, torch.float32), ("stats", False, torch.float32)]


USES = list(itertools.product(("mean", "none", "stats"), (False, True), (torch.float32, torch.bfloat16, torch.float16)))


@pytest.mark.usefixtures("seen_by_kernels")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("use", "soft", "dtype"), [pytest.param(*use, marks=() if use in ONE_EACH else pytest.mark.slow) for use in USES]
)
def test_no_table_of_logits_is_made_in_any_layout(layout: str, use: str, soft: bool, dtype: torch.dtype) -> None:
    """64 rows of 4096 logits; nothing that is made has as many numbers."""
    shape, classes, options = LAYOUTS[layout]
    rows = [size for i, size in enumerate(shape) if i != options.get("dim", len(shape) - 1)]
    target = torch.randint(0, classes[0], (*rows, *classes[1:-1]))
    if soft:  # the caller's own table, expanded from one row
        table = torch.full((1,), 1 / classes[0], dtype=dtype).expand(*target.shape, classes[0])
        target = table.movedim(-1, 1) if layout in ("dim", "K-dimensional") else table
    hidden, head = torch.randn(shape).to(dtype).requires_grad_(), torch.randn(classes).to(dtype).requires_grad_()
    reduction = {"reduction": "none"} if use == "none" else {}
    with Products() as products, xent.backend("native"):
        found = xent.linear_cross_entropy(
            hidden, head, target, max_memory=600_000, stats=use == "stats", **reduction, **options
        )
        loss = found if use != "stats" else found[0] + found[1].entropy.sum() + found[1].lse.sum()
        loss.sum().backward()
    assert products.largest < 64 * 4096
    assert products.count >= 3


@pytest.mark.usefixtures("seen_by_kernels")
def test_no_logit_is_made_twice_where_the_gradient_has_room() -> None:
    """60 rows of 64 features, several tiles: three products for each, and nothing larger than the gradient."""
    rows, features, classes = 60, 64, 4096
    hidden, head = torch.randn(rows, features), torch.randn(classes, features)
    target = torch.randint(0, classes, (rows,))
    cuts: list[Plan] = []
    with Products() as products, pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "plan", lambda *size, **how: cuts.append(plan(*size, **how)) or cuts[-1])
        leaves = hidden.requires_grad_(), head.requires_grad_()
        xent.linear_cross_entropy(*leaves, target, max_memory=300_000).backward()
    (cut,) = cuts
    tiles = -(-classes // cut.step)
    assert cut.in_gradient
    assert tiles > 2
    assert products.count == 3 * tiles
    assert products.largest == classes * features


@pytest.mark.usefixtures("seen_by_kernels")
def test_no_table_of_logits_is_made_for_the_best_classes() -> None:
    rows, features, classes = 64, 4, 4096
    hidden, head = torch.randn(rows, features, requires_grad=True), torch.randn(classes, features, requires_grad=True)
    cuts = {"rows": Plan("rows", 8, 0, 0, 0.0), "classes": Plan("classes", 256, 0, 0, 0.0)}
    for cut in cuts.values():
        with Products() as products, pytest.MonkeyPatch.context() as patch:
            patch.setattr(kernel, "plan", lambda size, bound, *, with_gradient, cut=cut: cut)
            target = torch.randint(0, classes, (rows,))
            scores = xent.token_logprobs(hidden, target, linear_weight=head, entropy=True, top=5)
            (scores.logprob.sum() + scores.entropy.sum() + scores.top_logprobs.sum()).backward()
        assert products.largest < rows * classes


@pytest.mark.usefixtures("seen_by_kernels")
def test_the_gradient_of_a_dense_target_is_the_only_table() -> None:
    rows, features, classes = 64, 4, 4096
    hidden, head = torch.randn(rows, features), torch.randn(classes, features)
    target = torch.full((rows, classes), 1 / classes, requires_grad=True)
    with Products() as products:
        loss = xent.linear_cross_entropy(hidden, head, target, max_memory=300_000, label_smoothing=0.1)
        loss.backward()
    tables = {place for place, entries in products.made if entries >= rows * classes}
    assert tables == {target.untyped_storage().data_ptr(), target.grad.untyped_storage().data_ptr()}
    wanted = (hidden @ head.T).log_softmax(1) * -(0.9 / rows)
    torch.testing.assert_close(target.grad, wanted)


@pytest.mark.usefixtures("seen_by_kernels")
def test_what_is_not_asked_for_costs_no_product() -> None:
    hidden, head = torch.randn(8, 4), torch.randn(16, 4)
    target = torch.tensor([1, 2, 3, 4, -100, -100, -100, -100])
    sparse = xent.SparseTarget(torch.stack([target, target.flip(0)], 1), torch.full((8, 2), 0.5))
    for labels in (target, sparse):
        for needs, count in (((False, False), 1), ((True, False), 2), ((False, True), 2), ((True, True), 3)):
            with Products() as products:
                loss = xent.linear_cross_entropy(
                    hidden.clone().requires_grad_(needs[0]), head.clone().requires_grad_(needs[1]), labels
                )
                if any(needs):
                    loss.backward()
            assert products.count == count, needs
