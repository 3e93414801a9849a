"""From canonical rows to the arguments of a row kernel: pointers, strides, numbers and compile-time flags."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache

import torch
import triton.language as tl
from torch import Tensor

import triton
from xent.backends.triton.launches import Launch, Question, choice_in_words, launch_for
from xent.backends.triton.row_layout import RowLayout, in_two_strides
from xent.problem import Rows
from xent.terms import LossTerms

_ACCUMULATORS = {torch.float32: tl.float32, torch.float64: tl.float64}


@dataclass(frozen=True, eq=False)
class RowCall:
    """One call of a row kernel.

    Attributes:
        question: what its launch depends on.
        problem: the rows, copied where two strides could not hold them.
        layout: where the rows lie: of the logits, then of the dense target or what the kernel writes.
        tensors: the pointers, None where there is nothing to read.
    """

    question: Question
    problem: Rows
    layout: RowLayout
    tensors: tuple[Tensor | None, ...]

    def run(self, with_launch: Callable[[Launch], None], *, repeatable: bool = True) -> None:
        """Call the kernel with the launch of choice; nothing if there are no rows."""
        logits = self.problem.logits
        if logits.numel() == 0:
            return
        with on_device(logits):
            with_launch(launch_for(self.question, logits.numel(), with_launch if repeatable else None))

    def grid(self, launch: Launch) -> tuple[int]:
        """How many programs."""
        return (self.layout.num_outer * triton.cdiv(self.layout.num_inner, launch.rows),)

    def sizes(self, launch: Launch) -> tuple[int, ...]:
        """Classes, rows of a run, programs of a run, entries; the strides of the logits and of the dense target."""
        problem, layout = self.problem, self.layout
        entries = 0 if problem.probabilities is None else problem.target.shape[-1]
        blocks = triton.cdiv(layout.num_inner, launch.rows)
        dense = layout.strides[1] if problem.is_dense else (0, 0, 0)
        return problem.num_classes, layout.num_inner, blocks, entries, *layout.strides[0], *dense

    def shape(self, launch: Launch) -> dict[str, int]:
        """The tile, and the entries of a sparse target as a power of two."""
        entries = 1 if self.problem.probabilities is None else triton.next_power_of_2(self.problem.target.shape[-1])
        return {"ROWS": launch.rows, "COLUMNS": launch.columns, "ENTRIES": entries, "num_warps": launch.warps}


def row_call(kernel: str, problem: Rows, *written: Tensor) -> RowCall:
    """The call of a kernel that reads these rows, and writes tensors of their shape whose strides are the last ones."""
    logits, target = problem.logits.detach(), problem.target.detach()
    read = (logits, target) if problem.is_dense else (logits,)
    read, layout = in_two_strides(read, written)
    problem = Rows(read[0], read[1] if problem.is_dense else target, problem.terms, problem.probabilities)
    return RowCall(_question(kernel, problem, layout), problem, layout, _tensors(problem))


def rows_alone(logits: Tensor) -> Rows:
    """Rows without a target, for what only folds them."""
    return Rows(logits, torch.empty(logits.shape[:-1], dtype=torch.int64, device="meta"), LossTerms())


def _question(kernel: str, problem: Rows, layout: RowLayout) -> Question:
    logits = problem.logits
    device = _device_name(logits.device)
    _, inner, classes = layout.strides[0]
    strided = abs(classes) > abs(inner) > 0 and layout.num_inner > 1
    return Question(
        kernel, str(logits.dtype).removeprefix("torch."), problem.num_classes, layout.num_inner, strided, device
    )


def launch_in_words(kernel: str, logits: Tensor) -> str:
    """How a kernel would be launched on these logits (*rows, C)."""
    (read,), layout = in_two_strides((logits,))
    return choice_in_words(_question(kernel, rows_alone(read), layout), logits.numel())


@cache
def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "interpreter"


def _tensors(problem: Rows) -> tuple[Tensor | None, ...]:
    """Logits, target, probabilities, class weight and row weight as the kernels read them."""
    terms, target, probabilities = problem.terms, problem.target, problem.probabilities
    target = None if target.is_meta else target if problem.is_dense else target.contiguous()
    return (
        problem.logits,
        target,
        None if probabilities is None else probabilities.detach().contiguous(),
        None if terms.weight is None else terms.weight.detach().contiguous(),
        None if terms.row_weight is None else terms.row_weight.detach().contiguous(),
    )


def kernel_numbers(problem: Rows) -> dict[str, float]:
    """The options that are numbers; a kernel takes them in float64 and rounds them to its own dtype."""
    terms = problem.terms
    smoothing = float(terms.label_smoothing)
    return {
        "keep": 1 - smoothing,
        "share": smoothing / problem.num_classes,
        "zeta": float(terms.z_loss),
        "cap": float(terms.softcap or 0.0),
        "scale": float(terms.logit_scale),
    }


def kernel_flags(problem: Rows) -> dict[str, object]:
    """The compile-time flags of a problem: what a kernel leaves out where an option is not used."""
    terms = problem.terms
    kind = 1 if problem.is_hard else 2 if problem.is_dense else 3
    kind = 0 if problem.target.is_meta else kind
    return {
        "ACC": _ACCUMULATORS[problem.stats_dtype],
        "TARGET": kind,
        "SMOOTHED": terms.label_smoothing > 0,
        "KEEP": terms.label_smoothing < 1,
        "HAS_CLASS_WEIGHT": terms.weight is not None,
        "HAS_ROW_WEIGHT": terms.row_weight is not None,
        "HAS_Z": terms.z_loss > 0,
        "HAS_CAP": terms.softcap is not None,
        "HAS_SCALE": terms.logit_scale != 1.0,
    }


def on_device(tensor: Tensor):
    """Triton launches on the current device, which need not be the tensor's."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
