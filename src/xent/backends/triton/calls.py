"""From canonical rows to the arguments of a row kernel: pointers, strides, numbers and compile-time flags."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import torch
import triton.language as tl
from torch import Tensor

import triton
from xent.backends.triton.launches import Launch, Question, choice_in_words, is_settled, launch_for
from xent.backends.triton.programs import Program, alignment, described, keep, known, program_of
from xent.backends.triton.row_layout import RowLayout, in_two_strides
from xent.problem import Rows
from xent.terms import LossTerms

T = TypeVar("T")
_ACCUMULATORS = {torch.float32: tl.float32, torch.float64: tl.float64}


_VECTOR = 16  # bytes that a thread reads at once


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

    def run(self, with_launch: Callable[[Launch], T], *, repeatable: bool = True) -> T | None:
        """Call the kernel with the launch of choice; nothing if there are no rows."""
        logits = self.problem.logits
        if logits.numel() == 0:
            return None
        with on_device(logits):
            return with_launch(launch_for(self.question, logits.numel(), with_launch if repeatable else None))

    def start(
        self, kernel: Any, launch: Launch, pointers: tuple[Tensor | None, ...], numbers: tuple[Any, ...],
        named: dict[str, Any],
    ) -> Program | None:  # fmt: skip
        """Call a kernel with its pointers, the numbers after them and the rest by name; what it has compiled."""
        named = named | self.tile(launch)
        compiled = kernel[self.grid(launch)](*pointers, *numbers, **named, num_warps=launch.warps)
        return program_of(kernel, compiled, (len(pointers), self.grid(launch)), numbers, named)

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

    def tile(self, launch: Launch) -> dict[str, int]:
        """How many rows and columns."""
        return {"ROWS": launch.rows, "COLUMNS": launch.columns}

    def options(self) -> dict[str, object]:
        """Numbers and flags of the terms, and the entries of a sparse target as a power of two."""
        problem = self.problem
        entries = 1 if problem.probabilities is None else triton.next_power_of_2(problem.target.shape[-1])
        return {**kernel_numbers(problem), **kernel_flags(problem), "ENTRIES": entries}

    def vectors(self, launch: Launch) -> dict[str, int]:
        """How many neighbours are read at once, and whether the tiles of a row begin with the first whole vector of it.

        That takes rows that begin between two vectors, one to a program; what is written must lie as they do.
        """
        width, first = self._width, self.layout.strides[0]
        written = self.layout.strides[1 + self.problem.is_dense :]
        runs = zip((self.layout.num_outer, self.layout.num_inner), first[:2], strict=True)
        shifted = any(stride % width for size, stride in runs if size > 1)
        fits = launch.rows == 1 and launch.columns >= 2 * width * width  # lanes for the classes of two vectors
        peeled = self._in_line(launch) and shifted and fits and all(strides == first for strides in written)
        return {"VECTOR": width, "PEELED": peeled}

    def lanes(self, launch: Launch) -> dict[str, int]:
        """Into how many lanes a tile is folded: of the neighbours that a thread reads at once, or one for all."""
        return {"LANES": launch.columns // self._width if self._in_line(launch) else 1}

    @property
    def _width(self) -> int:
        return max(_VECTOR // self.problem.logits.element_size(), 1)

    def _in_line(self, launch: Launch) -> bool:
        """Whether rows of adjacent classes take several tiles."""
        return self.layout.strides[0][2] == 1 and self._width <= launch.columns < self.problem.num_classes


def launch_rows(
    name: tuple[Any, ...], problem: Rows, others: tuple[Tensor | None, ...],
    started: Callable[[RowCall, Launch], Program | None], *, written: Tensor | None = None, repeatable: bool = True,
) -> None:  # fmt: skip
    """Run a row kernel: as an earlier call like this one did, or from the beginning.

    Args:
        name: the kernel, and what else its program depends on.
        problem: the rows that it reads.
        others: its pointers after those of the problem.
        started: starts it in a call with a launch.
        written: one of the others, of the shape of the logits.
        repeatable: whether it may be measured by running it several times.
    """
    given, terms, device = _given(problem), problem.terms, problem.logits.device
    key = (
        *name, device.index,
        terms.ignore_index, terms.label_smoothing, terms.z_loss, terms.softcap, terms.logit_scale,
        *[None if tensor is None else described(tensor) for tensor in (*given, written)],
        *[None if tensor is None else alignment(tensor) for tensor in others],
    )  # fmt: skip
    program = known(key)
    if program is not None:
        program.start((*given, *others), device)
        return
    call = row_call(name[0], problem, *(() if written is None else (written,)))
    program = call.run(lambda launch: started(call, launch), repeatable=repeatable)
    as_given = all(a is b or (a is not None and b is not None and a.data_ptr() == b.data_ptr())
                   for a, b in zip(call.tensors, given, strict=True))  # fmt: skip
    if program is not None and as_given and is_settled(call.question, problem.logits.numel()):
        keep(key, program)


def row_call(kernel: str, problem: Rows, *written: Tensor) -> RowCall:
    """The call of a kernel that reads these rows, and writes tensors of their shape whose strides are the last ones."""
    logits, target = problem.logits.detach(), problem.target.detach()
    read = (logits, target) if problem.is_dense else (logits,)
    read, layout = in_two_strides(read, written)
    problem = Rows(read[0], read[1] if problem.is_dense else target, problem.terms, problem.probabilities)
    return RowCall(_question(kernel, problem, layout), problem, layout, _tensors(problem))


def rows_alone(logits: Tensor) -> Rows:
    """Rows without a target, for what only folds them."""
    return Rows(logits, torch.empty(logits.shape[:-1], dtype=torch.int64, device="meta"), _NO_TERMS)


_NO_TERMS = LossTerms()


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


def _given(problem: Rows) -> tuple[Tensor | None, ...]:
    """Logits, target, probabilities, class weight and row weight."""
    terms, target = problem.terms, problem.target
    return (
        problem.logits,
        None if target.is_meta else target,
        problem.probabilities,
        terms.weight,
        terms.row_weight,
    )


def _tensors(problem: Rows) -> tuple[Tensor | None, ...]:
    """The same as the kernels read them: all but logits and dense targets contiguous."""
    logits, target, *others = _given(problem)
    target = target if target is None or problem.is_dense else target.contiguous()
    return logits, target, *(None if other is None else other.detach().contiguous() for other in others)


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
