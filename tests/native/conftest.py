from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from xent.backends.native import availability

if availability() is not None:
    collect_ignore_glob = ["test_*.py"]  # a pure installation has no kernels to test
else:
    from xent.backends.native import _kernels

    ISAS = tuple(_kernels.supported_isas())

    @pytest.fixture(params=ISAS)
    def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
        """Every test that asks for it runs once on every instruction set of this machine."""
        monkeypatch.setenv("XENT_ISA", request.param)
        assert _kernels.isa() == request.param
        return request.param


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
