"""The cases of `xent bench cross-entropy` and what each must show."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from xent.bench.needs import Need
from xent.bench.questions import Case

LARGE, OPTIONS, LAYOUTS, SHAPES, TINY, SIZES = "large", "options", "layouts", "shapes", "tiny", "sizes"
_MEMORY_FROM_LOGITS = 2**22  # below, the process's own noise is larger than the logits
_BFLOAT16_ROUNDING = 0.004  # half a unit in the last place is 0.39 %
_SPEEDUP_OF_SHAPE = {(8, 19, 256, 512): 1.5, (65536, 1000): 3.0, (65536, 10): 1.3}
_OPTION_TITLES = {
    "plain": "",
    "smoothing": "label smoothing 0.1",
    "probabilities": "probability targets",
    "weights": "class weights",
}


@dataclass(frozen=True, kw_only=True)
class LossCase(Case):
    """Attributes beyond those of `Case`.

    Attributes:
        option: "plain", "smoothing", "probabilities" or "weights".
        layout: "contiguous", or "transposed": a view of memory that holds the classes last.
    """

    option: str = "plain"
    layout: str = "contiguous"


def all_cases() -> list[LossCase]:
    """Every row of the table of what must be reached, and sizes between them for the picture."""
    cases = []
    for shape in ((4096, 32000), (1024, 128256)):
        for dtype in ("float32", "bfloat16"):
            cases += [_case(LARGE, shape, dtype, backward=backward) for backward in (False, True)]
    for shape in ((4096, 32000), (1024, 128256)):
        for dtype in ("float32", "bfloat16"):
            cases += [_case(OPTIONS, shape, dtype, option=name) for name in ("smoothing", "probabilities", "weights")]
    cases += [_case(LAYOUTS, (4, 32000, 1024), layout=layout) for layout in ("contiguous", "transposed")]
    cases += [_case(SHAPES, shape) for shape in ((8, 19, 256, 512), (65536, 1000), (65536, 10))]
    for shape in ((64, 10), (32, 2), (1, 50257)):
        cases += [_case(TINY, shape, backward=backward) for backward in (False, True)]
    return cases + [_case(SIZES, shape) for shape in ((256, 128), (128, 1000), (1024, 4096), (2048, 16384))]


def quick_cases() -> list[LossCase]:
    """The same kinds of work in sizes that finish in seconds; nothing is required of them."""
    cases = [
        _case(LARGE, (256, 1000), backward=False),
        _case(LARGE, (256, 1000), "bfloat16"),
        *(_case(OPTIONS, (64, 500), option=name) for name in ("smoothing", "probabilities", "weights")),
        *(_case(LAYOUTS, (2, 500, 32), layout=layout) for layout in ("contiguous", "transposed")),
        _case(SHAPES, (1, 19, 32, 64)),
        _case(SHAPES, (2048, 2048)),
        _case(TINY, (64, 10)),
    ]
    return [LossCase(**{**vars(case), "needs": ()}) for case in cases]


def _case(
    group: str,
    shape: tuple[int, ...],
    dtype: str = "float32",
    *,
    backward: bool = True,
    option: str = "plain",
    layout: str = "contiguous",
) -> LossCase:
    mode = "forward + backward" if backward else "forward"
    size = "×".join(map(str, shape))
    num_logits = math.prod(shape)
    logits_bytes = num_logits * getattr(torch, dtype).itemsize
    view = "a transposed view" if layout == "transposed" else ""
    title = " · ".join(filter(None, (mode, dtype, size, _OPTION_TITLES[option], view)))
    parts = ("both" if backward else "forward", dtype, size.replace("×", "x"))
    return LossCase(
        name="-".join([*parts, *([option] if option != "plain" else []), *([layout] if view else [])]),
        group=group,
        title=title,
        dtype=dtype,
        shape=shape,
        backward=backward,
        num_logits=num_logits,
        logits_bytes=logits_bytes,
        gradient_bytes=logits_bytes if backward else 0,
        memory=num_logits >= _MEMORY_FROM_LOGITS,
        needs=_needs(group, shape, dtype, backward, logits_bytes, layout),
        option=option,
        layout=layout,
    )


def _needs(
    group: str, shape: tuple[int, ...], dtype: str, backward: bool, logits_bytes: int, layout: str
) -> tuple[Need, ...]:
    if group == SIZES:
        return ()
    if group == TINY:
        return (Need("times", 1.10, "torch"), *_against_compilers(1.0))
    if group == SHAPES:
        return (Need("speedup", _SPEEDUP_OF_SHAPE.get(shape, 1.0), "torch"), *_against_compilers(1.0))
    if group == LAYOUTS:
        return (Need("speedup", 7.0 if layout == "transposed" else 3.5, "torch"), *_against_compilers(2.0))
    exact = (Need("error", _BFLOAT16_ROUNDING),) if dtype == "bfloat16" else ()
    if group == OPTIONS:
        return (Need("speedup", 3.0, "torch"), *_against_compilers(2.0), *exact)
    if not backward:
        return (
            Need("speedup", 4.5 if dtype == "float32" else 3.5, "torch"),
            *([Need("times", 1.6, "read")] if dtype == "float32" else []),
            *_against_compilers(2.0),
        )
    floors = (Need("times", 1.0, "clone"), Need("extra_memory", 1.02 * logits_bytes, unit=logits_bytes))
    return (Need("speedup", 3.5, "torch"), *floors, *_against_compilers(2.0), *exact)


def _against_compilers(bound: float) -> tuple[Need, Need]:
    return Need("speedup", bound, "compiled"), Need("speedup", bound, "optax")
