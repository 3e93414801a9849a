from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.zoo._forks import Forks, Outcome
from tests.zoo._programs import Program


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    forks = Forks()
    yield forks
    forks.close()


@pytest.fixture
def run(forks: Forks, tmp_path: Path) -> Callable[..., list[Outcome]]:
    """Run a program plainly, or under the doctor with the options given."""

    def run(program: Program, doctor: list[str] | None = None) -> list[Outcome]:
        argv = [*(doctor or []), str(program.path), *program.args]
        scratch = tmp_path / ("plain" if doctor is None else "doctor")
        scratch.mkdir()
        return forks.run(
            argv, scratch, doctor=doctor is not None, stdin=program.stdin, environments=_environments(program)
        )

    return run


def _environments(program: Program) -> tuple[dict[str, str], ...]:
    if program.ranks == 1:
        return ({},)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    world = {
        "XENT_DOCTOR_ACROSS_RANKS": "1",
        "WORLD_SIZE": str(program.ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    return tuple({"RANK": str(rank), "LOCAL_RANK": str(rank), **world} for rank in range(program.ranks))
