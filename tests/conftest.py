"""Every test draws the same random numbers whichever tests ran before it, in whichever process."""

from __future__ import annotations

import os
import signal
import zlib
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

if not torch.cuda.is_available():
    # Without a GPU the Triton column is tested under Triton's interpreter. Triton reads this when it is first imported,
    # and torch's inductor imports it too, for GPUs alone: nothing else in a process of tests takes notice.
    os.environ.setdefault("TRITON_INTERPRET", "1")

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def seed(request):
    torch.manual_seed(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture(autouse=True)
def signals_as_they_were() -> Iterator[None]:
    """A command that ends with an error under torchrun's variables goes on ignoring SIGTERM, as would every process
    that a later test starts.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        if signal.getsignal(number) != handler:
            signal.signal(number, handler)
