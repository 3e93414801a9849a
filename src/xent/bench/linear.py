"""`xent bench linear`: a language model's head and its loss, forward and backward, on the CPU.

The naive form holds the N×V logits several times over; everyone else tries not to. `products` is the arithmetic that
none can avoid: hidden·Wᵀ, G·W and Gᵀ·hidden into buffers that are there already.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import xent
from xent.bench.contest import Entry
from xent.bench.needs import Need
from xent.bench.peers import absent, jax_entry, to_jax, torch_entry
from xent.bench.questions import Case, Question
from xent.bench.truth import linear_gradient_error

_MIB = 2**20
_BOUNDED_MEMORY = 16 * _MIB
_SHAPES = ((2048, 768, 50257), (4096, 2048, 32000), (1024, 2304, 256000))
_SMALL = (256, 768, 16384)  # where the machine has no half instructions, torch takes minutes for a call at the others
_PEERS = ("naive", "compiled", "torch", "chunked", "cce", "optax")
_CHUNKED_PEERS = ("chunked", "cce")
_PRODUCTS_BOUND = {"float32": (1.10, 1.10, 1.25), "bfloat16": (1.35, 1.35, 1.5)}


@dataclass(frozen=True, kw_only=True)
class LinearCase(Case):
    """`half_ignored`: every other row has no target."""

    half_ignored: bool = False


class LinearField:
    """Hidden states, weight and target of a case; seed 0."""

    def __init__(self, case: LinearCase) -> None:
        self.case = case
        generator = torch.Generator().manual_seed(0)
        dtype = getattr(torch, case.dtype)
        num_rows, num_features, num_classes = case.shape
        self.hidden_ND = torch.empty(num_rows, num_features, dtype=dtype).normal_(generator=generator)
        self.weight_VD = torch.empty(num_classes, num_features, dtype=dtype)
        self.weight_VD.normal_(std=num_features**-0.5, generator=generator)
        self.target_N = torch.randint(num_classes, (num_rows,), generator=generator)
        if case.half_ignored:
            self.target_N[::2] = -100
        self.leaves = (self.hidden_ND.requires_grad_(), self.weight_VD.requires_grad_())

    def entry(self, contestant: str) -> Entry:
        """A contestant on these tensors."""
        makers: dict[str, Callable[[], Entry]] = {
            "xent": lambda: self._of(xent.linear_cross_entropy),
            "xent-16MiB": lambda: self._of(xent.linear_cross_entropy, max_memory=_BOUNDED_MEMORY),
            "naive": lambda: self._of(_naive),
            "compiled": self._compiled,
            "torch": lambda: self._of(F.linear_cross_entropy),
            "chunked": self._chunked,
            "cce": self._cut_cross_entropy,
            "optax": self._optax,
            "products": self._products,
        }
        return makers[contestant]()

    def gradient_error(self, gradients: list[Tensor]) -> float:
        """See `truth.linear_gradient_error`."""
        hidden_ND, weight_VD = (leaf.detach() for leaf in self.leaves)
        return linear_gradient_error(gradients[0], gradients[1], hidden_ND, weight_VD, self.target_N)

    def backend(self) -> dict[str, object]:
        """The choice that xent makes."""
        operation = "linear_cross_entropy"
        return xent.choices(self.hidden_ND, self.weight_VD, self.target_N, operation=operation).to_dict()

    def _of(self, function: Callable[..., Tensor], **options: Any) -> Entry:
        hidden_ND, weight_VD, target_N = self.hidden_ND, self.weight_VD, self.target_N
        return torch_entry(lambda: function(hidden_ND, weight_VD, target_N, **options), self.leaves)

    def _compiled(self) -> Entry:
        return self._of(torch.compile(_naive, dynamic=False, fullgraph=True))

    def _chunked(self) -> Entry:
        options = torch.nn.LinearCrossEntropyOptions()  # its own choice of chunks for this device and dtype
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # it warns where it takes the unchunked path instead
            self._of(F.linear_cross_entropy, options=options).run()
        return self._of(F.linear_cross_entropy, options=options)

    def _cut_cross_entropy(self) -> Entry:
        library: Any = import_module("cut_cross_entropy")
        return self._of(library.linear_cross_entropy, impl="torch_compile")

    def _optax(self) -> Entry:
        optax: Any = import_module("optax")
        jnp: Any = import_module("jax").numpy
        half_ignored = self.case.half_ignored

        def loss(hidden_ND: Any, weight_VD: Any, target_N: Any) -> Any:
            logits = (hidden_ND @ weight_VD.T).astype("float32")
            if not half_ignored:
                return optax.softmax_cross_entropy_with_integer_labels(logits, target_N).mean()
            counted = target_N >= 0
            rows = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(target_N, 0))
            return jnp.where(counted, rows, 0).sum() / counted.sum()

        return jax_entry(loss, tuple(map(to_jax, (self.hidden_ND, self.weight_VD, self.target_N))), 2)

    def _products(self) -> Entry:
        hidden_ND, weight_VD = (leaf.detach() for leaf in self.leaves)
        logits_NV = torch.empty(hidden_ND.shape[0], weight_VD.shape[0], dtype=hidden_ND.dtype)
        hidden_gradient, weight_gradient = torch.empty_like(hidden_ND), torch.empty_like(weight_VD)

        def run() -> None:
            torch.mm(hidden_ND, weight_VD.T, out=logits_NV)
            torch.mm(logits_NV, weight_VD, out=hidden_gradient)
            torch.mm(logits_NV.T, hidden_ND, out=weight_gradient)

        with torch.no_grad():
            run()
        logits_NV.div_(logits_NV.abs().max() * 1e3)  # products of products would overflow
        return Entry(torch.no_grad()(run))


def _naive(hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden_ND, weight_VD), target_N)


def _case(shape: tuple[int, int, int], dtype: str, needs: tuple[Need, ...], half_ignored: bool = False) -> LinearCase:
    num_rows, num_features, num_classes = shape
    itemsize = getattr(torch, dtype).itemsize
    ending = " · every other row ignored" if half_ignored else ""
    return LinearCase(
        name="-".join([dtype, "x".join(map(str, shape)), *(["half-ignored"] if half_ignored else [])]),
        group=dtype,
        title=f"{dtype} · N {num_rows} · D {num_features} · V {num_classes}{ending}",
        dtype=dtype,
        shape=shape,
        backward=True,
        num_logits=num_rows * num_classes,
        logits_bytes=num_rows * num_classes * itemsize,
        gradient_bytes=(num_rows + num_classes) * num_features * itemsize,
        memory=True,
        needs=needs,
        half_ignored=half_ignored,
    )


def _needs(shape: tuple[int, int, int], dtype: str, products_bound: float) -> tuple[Need, ...]:
    num_rows, num_features, num_classes = shape
    gradient_bytes = (num_rows + num_classes) * num_features * getattr(torch, dtype).itemsize
    memory = max(64 * _MIB, 0.1 * 2 * gradient_bytes)  # 10 % of inputs and gradients, which are equally large
    faster = _PEERS if dtype == "float32" else ("naive", *_CHUNKED_PEERS)
    needs = [
        Need("times", products_bound, "products"),
        *(Need("speedup", 3.0 if (dtype, name) == ("float32", "chunked") else 1.0, name) for name in faster),
        Need("beyond_gradients", memory),
        Need("error_times", 1.0, "naive"),
    ]
    if shape == _SHAPES[-1]:
        needs += [
            Need("beyond_gradients", _BOUNDED_MEMORY, of="xent-16MiB"),
            Need("times", 2.0, "xent", of="xent-16MiB"),
        ]
    return tuple(needs)


def _cases(quick: bool) -> list[LinearCase]:
    """Three shapes in two dtypes, a small one in bfloat16, and one with half of the rows ignored."""
    if quick:
        small = (_case((64, 32, 1000), dtype, ()) for dtype in _PRODUCTS_BOUND)
        return [replace(case, memory=case.dtype == "float32") for case in small]
    cases = [
        _case(shape, dtype, _needs(shape, dtype, bound))
        for dtype, bounds in _PRODUCTS_BOUND.items()
        for shape, bound in zip(_SHAPES, bounds, strict=True)
    ]
    small = _case(_SMALL, "bfloat16", _needs(_SMALL, "bfloat16", _PRODUCTS_BOUND["bfloat16"][0]))
    return [*cases, small, _case(_SHAPES[0], "float32", (), half_ignored=True)]


def _contestants(case: LinearCase) -> list[str]:
    """Everyone; the bounded one at the last shape, where memory is hardest to save."""
    bounded = case.shape == _SHAPES[-1] or case.shape not in (*_SHAPES, _SMALL)
    return [name for name in _LABELS if bounded or name != "xent-16MiB"]


def _absent() -> dict[str, str]:
    reasons = absent(*_LABELS)
    if not hasattr(F, "linear_cross_entropy"):
        reasons |= dict.fromkeys(("torch", "chunked"), f"torch {torch.__version__} has no F.linear_cross_entropy")
    return reasons


_LABELS = {
    "xent": "xent.linear_cross_entropy",
    "xent-16MiB": "… max_memory=16 MiB",
    "naive": "F.linear, F.cross_entropy",
    "compiled": "torch.compile of it",
    "torch": "F.linear_cross_entropy",
    "chunked": "… chunked",
    "cce": "cut-cross-entropy",
    "optax": "optax under jit",
    "products": "three bare products",
}
QUESTION = Question(
    name="linear",
    title="linear layer and cross-entropy, forward + backward",
    baseline="naive",
    labels=_LABELS,
    error_text="larger relative error of 64 rows of the gradients of input and weight",
    cases=_cases,
    contestants=_contestants,
    absent=_absent,
    field=LinearField,
    beside=("xent", "products"),
)
