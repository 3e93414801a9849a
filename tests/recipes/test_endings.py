"""The last word of a rank whose store is gone, as after Ctrl-C on the launcher that held it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from torch.distributed import HashStore

from xent.errors import DataError
from xent.recipes._endings import Endings, LateError, last_word


class Gone:
    """A store whose process has ended."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("Connection reset by peer")


@pytest.fixture
def endings() -> Iterator[Endings]:
    of_rank = Endings(HashStore(), 0, 1, 5)
    of_rank._store = Gone()
    yield of_rank
    of_rank.stop()


def test_whoever_can_ask_nobody_says_why(endings):
    assert endings.claim()


def test_its_own_error_stays_and_the_end_of_another_is_said(endings):
    torn = DataError("the page is torn", "pages are whole", "glue it")
    assert last_word(endings, torn, "after epoch 1", "go on") is torn
    of_another = last_word(endings, LateError("[1] did not come"), "after epoch 1", "go on")
    assert "rank 0 of 1 lost the others, after epoch 1 ([1] did not come)" in str(of_another)
