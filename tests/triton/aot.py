"""Compile every kernel for a GPU that is not here: from real calls down to the machine code of compute capability 9.0.

Run by test_compilation.py in a process of its own, without the interpreter. A driver that answers what a launch asks
before it compiles stands in for CUDA; then the launch is left out.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver, jit

import xent
from xent.head import Head, head_rows_of
from xent.problem import rows_of
from xent.terms import LossTerms

COMPILED: list[dict[str, Any]] = []


class NoGPU:
    """A driver without a device."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def only_compile(run: Any) -> Any:
    def compiled(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        ptx = kernel.asm["ptx"]
        COMPILED.append(
            {"kernel": f"{self.fn.__module__.rsplit('.', 1)[-1]}.{self.__name__}", "cubin": len(kernel.asm["cubin"]),
             "wide": "ld.global.v4" in ptx, "atomics": len(re.findall(r"\s(atom|red)\.", ptx)),
             "shared": kernel.metadata.shared}
        )  # fmt: skip
        return None  # nothing to launch, now or again

    return compiled


def calls(dtype: torch.dtype, options: str) -> None:
    """Every kernel once, with hardly any term or all of them."""
    from xent.backends.triton import (
        binary_cross_entropy_with_logits,
        cross_entropy,
        cross_entropy_gradient,
        linear_cross_entropy,
        log_softmax,
        logsumexp,
        scale,
        top_classes,
    )

    rows, classes, features = 64, 32000 if options == "few" else 4003, 48
    wide = torch.float32 if dtype.itemsize == 2 else dtype
    terms: dict[str, Any] = {}
    if options == "all":
        terms = {"label_smoothing": 0.1, "z_loss": 0.01, "softcap": 30.0, "logit_scale": 0.5,
                 "weight": torch.ones(classes, dtype=dtype), "row_weight": torch.ones(rows, dtype=wide)}  # fmt: skip
    x, y, g = (
        torch.zeros(rows, classes, dtype=dtype),
        torch.zeros(rows, dtype=torch.int64),
        torch.ones(rows, dtype=wide),
    )
    sparse = xent.SparseTarget(torch.zeros(rows, 3, dtype=torch.int64), torch.ones(rows, 3, dtype=dtype))
    soft = torch.zeros(rows, classes, dtype=dtype)
    for target in (y, soft, sparse):
        problem = rows_of(x, target, LossTerms(**terms))
        values = cross_entropy.forward(problem, options == "all")
        entropy = g if options == "all" else None
        upstream = cross_entropy_gradient.Upstream(g, entropy, entropy)
        cross_entropy_gradient.gradient(problem, values.saved, upstream)
    pixels = rows_of(torch.zeros(2, 21, 64, dtype=dtype), torch.zeros(2, 64, dtype=torch.int64), LossTerms())
    cross_entropy_gradient.gradient(
        pixels, cross_entropy.forward(pixels, False).saved, cross_entropy_gradient.Upstream(torch.ones(128, dtype=wide))
    )
    top_classes.top_classes(rows_of(x, y, LossTerms(softcap=terms.get("softcap"))), 3)
    _, largest, logsum = logsumexp.forward(x)
    logsumexp.gradient(x, largest, logsum, g)
    _, largest, logsum = log_softmax.forward(x)
    log_softmax.gradient(x, largest, logsum, x)
    flat = torch.zeros(1000, dtype=wide)
    for weight in (None, flat):
        binary_cross_entropy_with_logits.forward(flat, flat, weight, weight)
        binary_cross_entropy_with_logits.gradient(flat, flat, weight, weight, flat)
    scale.scale_in_place(x, torch.ones((), dtype=wide))
    head = Head(torch.zeros(classes, features, dtype=dtype), torch.zeros(classes, dtype=dtype) if terms else None)
    hidden, terms = torch.zeros(rows, features, dtype=dtype), {**terms, "row_weight": None}
    for target in (y, soft, sparse):
        problem = head_rows_of(hidden, head, target, LossTerms(**terms), -1, 0)
        smallest = vars(problem) | {"max_memory": 1, "gradient_filter": 1e-4 if options == "all" else 0.0}
        needs = linear_cross_entropy.Needs(True, True, options == "all")
        linear_cross_entropy.loss_and_gradients(type(problem)(**smallest), g, needs)
        if options == "all":
            of_bias = linear_cross_entropy.Needs(False, False, True)
            linear_cross_entropy.loss_and_gradients(type(problem)(**smallest), g, of_bias)


if __name__ == "__main__":
    driver.set_active(NoGPU())
    jit.JITFunction.run = only_compile(jit.JITFunction.run)
    calls(getattr(torch, sys.argv[1]), sys.argv[2])
    print(json.dumps(COMPILED))
