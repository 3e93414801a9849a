"""docs/conformance.md has the numbers of samples that the tests run on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from . import counts, test_derivatives, test_errors, test_modules, test_transforms
from .module_samples import MODULES, module_samples_of
from .samples import samples_of
from .subjects import SUBJECTS

DOC = Path(__file__).parents[2] / "docs" / "conformance.md"


def collected() -> dict[counts.Cell, int]:
    """The number of samples behind every cell."""
    return {(name, check, str(key)): len(samples) for name, check, key, samples in [*_functions(), *_modules()]}


def _functions():
    for name, subject in SUBJECTS.items():
        for dtype in subject.dtypes:
            yield name, "forward", dtype, samples_of(name, dtype)
            yield name, "unmodified", dtype, samples_of(name, dtype)
        yield name, "vmap", torch.float64, samples_of(name, torch.float64)
        yield name, "compile (aot_eager)", torch.float32, test_transforms.distinct(name)
        yield name, "compile (inductor)", torch.float32, test_transforms.richest(name)
    for name, dtype in test_derivatives.DOUBLE:
        for check in test_derivatives.CHECKS:
            yield name, check, dtype, samples_of(name, dtype)
    for entry, name in test_errors.OPERATIONS:
        yield name, "errors", entry[1], test_errors.operation_refusals(entry, name)


def _modules():
    for name, dtypes in MODULES.items():
        for dtype in dtypes:
            yield name, "forward", dtype, module_samples_of(name, dtype)
        yield name, "gradients", torch.float64, module_samples_of(name, torch.float64)
    for name in test_errors.MODULES_WITH_ERRORS:
        yield name, "errors", "", test_errors.module_refusals(name)


def test_the_page_has_these_numbers():
    page = DOC.read_text(encoding="utf-8")
    made_with = page.split("PyTorch ", 1)[1].split()[0]
    if made_with != torch.__version__.partition("+")[0]:
        pytest.skip(f"docs/conformance.md was made with torch {made_with}, this is {torch.__version__}")
    assert counts.page(collected()) == page, f"regenerate it: {counts.__doc__}"


def test_every_cell_belongs_to_a_column():
    columns = {*counts.FUNCTION_CHECKS, *counts.MODULE_CHECKS}
    assert {check for _, check, _ in collected()} == columns
    assert set(test_modules.MODULES) == set(MODULES)
