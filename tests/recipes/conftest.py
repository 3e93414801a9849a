"""Processes that train together, kept for the tests of a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.recipes.ranks import Ranks


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    """Ranks that load torch once."""
    from tests.recipes.ranks import Ranks

    processes = Ranks()
    yield processes
    processes.close()
