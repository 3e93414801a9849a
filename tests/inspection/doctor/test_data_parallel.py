"""Two processes, gloo, and all that a training script of today brings along: the same bits under the doctor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BODY = """
import hashlib
import os
import sys

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(8, 16), nn.Linear(16, 4)
        self.block = nn.Sequential(nn.Linear(16, 16), nn.GELU(), nn.Dropout(0.1))

    def forward(self, x):
        return self.outer(checkpoint(self.block, self.inner(x).relu(), use_reentrant=False))


def train(rank):
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.manual_seed(0)
    x, y = torch.randn(128, 8), torch.randint(4, (128,))
    data = TensorDataset(x, y)
    loader = DataLoader(data, 16, sampler=DistributedSampler(data, seed=1), num_workers=1)
    net = Net()
    model = DistributedDataParallel(torch.compile(net, backend=os.environ.get("BACKEND", "inductor")))
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        for inputs, labels in loader:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(inputs)
            loss = F.cross_entropy(logits.float()WRONG, labels)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    bits = b"".join(each.detach().numpy().tobytes() for each in net.parameters())
    print(hashlib.sha256(bits).hexdigest() + "\\n", end="", flush=True)
    dist.destroy_process_group()


"""
TORCHRUN = BODY + 'if __name__ == "__main__":\n    train(int(os.environ["RANK"]))\n'
SPAWN = BODY + (
    'if __name__ == "__main__":\n'
    '    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=sys.argv[1])\n'
    "    torch.multiprocessing.spawn(train, nprocs=2)\n"
)


def _run(*command: str, backend: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "BACKEND": backend}
    return subprocess.run(
        [sys.executable, *command], env=environment, text=True, capture_output=True, timeout=300, check=False
    )


XENT = str(Path(sys.executable).parent / "xent")
TORCHRUN_2 = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_torchrun_gives_the_same_bits(tmp_path: Path, backend: str) -> None:
    script = tmp_path / "train.py"
    script.write_text(TORCHRUN.replace("WRONG", ""))
    plain = _run(*TORCHRUN_2, str(script), backend=backend)
    examined = _run(*TORCHRUN_2, "--no-python", XENT, "doctor", str(script), backend=backend)
    assert (plain.returncode, examined.returncode) == (0, 0), examined.stderr
    assert sorted(examined.stdout.split()) == sorted(plain.stdout.split())
    assert len(plain.stdout.split()) == 2
    assert examined.stderr.count("nothing found") == 2, examined.stderr


@pytest.mark.slow
def test_a_mistake_is_found_on_every_rank(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(TORCHRUN.replace("WRONG", ".softmax(1)"))
    line = next(n for n, text in enumerate(script.read_text().splitlines(), 1) if "softmax(1)" in text)
    wrapper = tmp_path / "examined.py"
    wrapper.write_text(
        "import os, sys\nfrom xent.cli import main\n"
        f"sys.exit(main(['doctor', '--json', {str(tmp_path)!r} + '/' + os.environ['RANK'], {str(script)!r}]))\n"
    )
    ended = _run(*TORCHRUN_2, str(wrapper), backend="eager")
    assert ended.returncode == 1, ended.stderr
    for rank in "01":
        report = tmp_path / rank
        if not report.exists():
            continue  # torchrun ends the other rank as soon as one has failed
        bad = [each for each in json.loads(report.read_text())["findings"] if each["severity"] != "info"]
        assert [(each["rule"], each["line"]) for each in bad] == [("softmax-before-cross-entropy", line)]
    assert (tmp_path / "0").exists() or (tmp_path / "1").exists()


@pytest.mark.slow
def test_spawned_ranks_give_the_same_bits(tmp_path: Path, free_port: str) -> None:
    script = tmp_path / "train.py"
    script.write_text(SPAWN.replace("WRONG", ""))
    plain = _run(str(script), free_port, backend="eager")
    examined = _run("-c", "import sys, xent.cli; sys.exit(xent.cli.main())", "doctor", str(script), free_port,
                    backend="eager")  # fmt: skip
    assert (plain.returncode, examined.returncode) == (0, 0), examined.stderr
    assert sorted(examined.stdout.split()) == sorted(plain.stdout.split())
    assert "spawned" in examined.stderr or "no loss function was called" in examined.stderr


@pytest.fixture
def free_port() -> str:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])
