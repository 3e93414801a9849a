"""The page docs/conformance.md: `python -m tests.conformance.counts > docs/conformance.md` makes it from a test run."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from .differences import DIFFERENCES

Cell = tuple[str, str, str]  # subject, check, dtype or variant
FUNCTION_CHECKS = (
    "forward",
    "unmodified",
    "gradcheck",
    "gradgradcheck",
    "forward AD",
    "vmap",
    "compile (aot_eager)",
    "compile (inductor)",
    "errors",
)
MODULE_CHECKS = ("forward", "gradients", "errors")
DTYPE_GROUPS = {
    "float16": ("float16",),
    "bfloat16": ("bfloat16",),
    "float32": ("float32",),
    "float64": ("float64",),
    "bool, integers": ("bool", "uint8", "int8", "int16", "int32", "int64"),
    "complex": ("complex32", "complex64", "complex128"),
}
PAGE = """\
# Conformance

PyTorch {torch} ships the samples that it tests its own operations and modules with. Each of them runs through xent.
The numbers below are samples that passed, and there is none that did not. The page is the output of

    python -m tests.conformance.counts > docs/conformance.md

which runs `tests/conformance` and fails if a test does.

## Functions
{functions}

- **forward**: value, shape, dtype, NaN and infinities; |xent − truth| ≤ |torch − truth| + a few roundings, where the
  truth is torch's function in float64 on the same numbers (`tests/conformance/error_budget.py`).
- **unmodified**: after forward and backward, every tensor of the call is the same bit for bit.
- **gradcheck**, **gradgradcheck**, **forward AD**: against finite differences, in float64 (`logsumexp` in complex128
  too), for every floating point tensor of the call, class weights included. `linear_cross_entropy` and
  `token_logprobs` by random projections of the Jacobian (torch's `fast_mode`), the others entry by entry.
- **vmap**: equals a loop, with all tensors batched and with the input alone batched in its last dimension.
- **compile**: `torch.compile(fullgraph=True)` gives the value and the gradients of the eager call. aot_eager: a sample
  of each distinct set of options, kind of target and number of dimensions; inductor: the richest of these for each
  kind of target.
- **errors**: calls that torch refuses, refused with the same error class.

`linear_cross_entropy` includes the samples of torch's chunked variants.

### Forward, by dtype
{dtypes}

## Modules
{modules}

- **forward**: as above, through `xent.nn` with the state dict of torch's module.
- **gradients**: of the input and the parameters, equal to torch's in float64 to 1e-12.

## Differences that the samples meet
{differences}
"""


def page(passed: dict[Cell, int]) -> str:
    """The page with these numbers."""
    from .module_samples import MODULES
    from .subjects import SUBJECTS

    def by_check(subject: str, check: str) -> int:
        return sum(number for (one, other, _), number in passed.items() if (one, other) == (subject, check))

    def by_dtype(subject: str, group: str) -> int:
        return sum(passed.get((subject, "forward", f"torch.{dtype}"), 0) for dtype in DTYPE_GROUPS[group])

    return PAGE.format(
        torch=torch.__version__.partition("+")[0],
        functions=table("function", SUBJECTS, FUNCTION_CHECKS, by_check),
        dtypes=table("function", SUBJECTS, DTYPE_GROUPS, by_dtype),
        modules=table("module", MODULES, MODULE_CHECKS, by_check),
        differences="\n".join(f"- {text}" for text in DIFFERENCES.values()),
    )


def table(corner: str, rows: Iterable[str], columns: Iterable[str], value: Callable[[str, str], int]) -> str:
    """A Markdown table of numbers with their sums; where torch has no sample, a dash."""
    rows, columns = list(rows), list(columns)
    lines = [[corner, *columns], ["---", *("--:" for _ in columns)]]
    lines += [[f"`{row}`", *(str(value(row, column) or "–") for column in columns)] for row in rows]
    lines += [["all", *(str(sum(value(row, column) for row in rows)) for column in columns)]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> int:
    """Run the tests of this folder and print the page; the exit status is pytest's."""
    folder = Path(__file__).parent
    with tempfile.TemporaryDirectory() as scratch:
        written = Path(scratch, "page")
        command = [sys.executable, "-m", "pytest", str(folder), "-q", "-n", "2", f"--conformance-counts={written}"]
        command += [f"--deselect={folder.relative_to(Path.cwd())}/test_counts.py"]  # it reads the page that this writes
        status = subprocess.run(command, stdout=sys.stderr, check=False).returncode
        if status == 0:
            sys.stdout.write(written.read_text(encoding="utf-8"))
    return status


if __name__ == "__main__":
    sys.exit(main())
