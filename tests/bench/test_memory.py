"""What the memory measurement sees, in a process of its own as in a run."""

from __future__ import annotations

import subprocess
import sys
import tempfile

import pytest

from xent.bench.memory import Probe

MIB = 2**20
SLACK = 4 * MIB  # pages of the interpreter itself, and counters that Linux keeps per processor


def measured(expression: str) -> int:
    code = (
        "import torch\nfrom xent.bench.memory import peak_extra_bytes\n"
        f"call = lambda: {expression}\ncall()\nprint(peak_extra_bytes(call))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    if said == "None":
        pytest.skip("this system does not let a process reset its high-water mark")
    return int(said)


def test_a_tensor_of_64_mib_is_seen() -> None:
    assert measured("torch.ones(16 * 2**20)") == pytest.approx(64 * MIB, abs=SLACK)


def test_memory_that_is_freed_inside_the_call_counts() -> None:
    """Two temporaries of 64 MiB at once, one number left."""
    assert measured("float((torch.ones(16 * 2**20) + 1).sum())") == pytest.approx(128 * MIB, abs=SLACK)


@pytest.mark.parametrize("first_call_ends", [False, True])
def test_a_probe_over_its_limit_leaves_a_bound(first_call_ends: bool) -> None:
    said = ["{}", *(['{"seconds": 5}'] if first_call_ends else [])]
    code = f"import time; print(*{said}, sep=chr(10), flush=True); time.sleep(60)"
    with (
        tempfile.TemporaryFile("w+") as file,
        subprocess.Popen([sys.executable, "-c", code], stdout=file, text=True) as process,
    ):
        found = Probe("linear", "", "", 1, True, 0.5)._stopped(process, file)
        process.kill()
    assert found is not None
    if first_call_ends:
        assert found == {"seconds": 5}
    else:
        assert found["at_least_ms"] == 1500.0
        assert "stopped after 1.5 s" in found["note"]


def test_a_probe_that_fails_says_why() -> None:
    found = Probe("cross-entropy", "no-such-case", "xent", 1, True, 1.0).run()
    assert found["note"].startswith("failed: ")
