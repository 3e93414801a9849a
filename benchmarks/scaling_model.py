# What would a sharded loss cost on more ranks than this machine has? A model, and its bytes counted on gloo.
#
#   .venv/bin/python benchmarks/scaling_model.py            the tables of docs/scaling.md
#   .venv/bin/python benchmarks/scaling_model.py --check    2 and 4 processes: bytes written to sockets beside the model
#
# N rows and D features a data rank, V classes over T tensor ranks, R data ranks. Bytes are those that one rank sends:
# an all-gather of messages of m bytes sends (T − 1) m, a ring all-reduce of m bytes 2 (T − 1) / T · m. A time is
# bytes / BANDWIDTH + messages · LATENCY, and the products' 6 N D V / T operations (8 where logits are made twice) at
# SPEED; the three constants are assumptions, printed with the table, for one accelerator and its links.
import argparse
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

BANDWIDTH, LATENCY, SPEED = 200e9, 5e-6, 400e12  # bytes/s and s of a link inside a node, operations/s in bfloat16
DATA_BANDWIDTH, DATA_LATENCY = 40e9, 15e-6  # between nodes
HEADER, STATE, MESSAGE_HEAD, COUNT = 72, {"float32": 10, "bfloat16": 8}, 8, 16
GIB, MIB = 2**30, 2**20


@dataclass(frozen=True)
class Setting:
    rows: int
    features: int
    classes: int
    tensor_ranks: int
    item: int = 2

    @property
    def state(self):
        return STATE["bfloat16" if self.item == 2 else "float32"]

    def forward_bytes(self):
        """The two all-gathers."""
        return (self.tensor_ranks - 1) * (HEADER + MESSAGE_HEAD + self.state * self.rows)

    def megatron_bytes(self):
        """Three all-reduces of one float32 number a row."""
        return 3 * ring(4 * self.rows, self.tensor_ranks)

    def backward_bytes(self):
        """The sum of the gradient of the hidden states, in their dtype, with one number for failures."""
        return ring(self.item * (self.rows * self.features + 1), self.tensor_ranks)

    def memory(self):
        """Weight, its gradient (float32), hidden states and their gradient, and one chunk of logits."""
        shard = self.classes // self.tensor_ranks * self.features
        inputs = (shard + self.rows * self.features) * self.item
        chunk = max(64 * MIB, 2 * inputs // 10)
        whole = self.rows * (self.classes // self.tensor_ranks) * self.item
        return inputs + 4 * shard + self.item * self.rows * self.features + min(chunk, whole)

    def compute_seconds(self):
        whole = self.rows * (self.classes // self.tensor_ranks) * self.item
        inputs = (self.classes // self.tensor_ranks + self.rows) * self.features * self.item
        products = 3 if whole <= max(64 * MIB, 2 * inputs // 10) else 4
        return products * 2 * self.rows * self.features * self.classes / self.tensor_ranks / SPEED

    def wire_seconds(self):
        """Collectives one after another: 2 (T − 1) hops of a ring, T − 1 of an all-gather."""
        if self.tensor_ranks == 1:
            return 0.0
        hops = 4 * (self.tensor_ranks - 1)
        return (self.forward_bytes() + self.backward_bytes()) / BANDWIDTH + hops * LATENCY


def ring(message, ranks):
    return 2 * (ranks - 1) / ranks * message


def table():
    print(
        f"N = 8192 rows, D = 4096, bfloat16; {BANDWIDTH / 1e9:.0f} GB/s and {1e6 * LATENCY:.0f} µs a hop inside a node,"
    )
    print(f"{SPEED / 1e12:.0f} TFLOP/s\n")
    print("| V | T | state, sent | Megatron's, sent | gradient of hidden, sent | memory | products | wire |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    for classes in (32_768, 131_072, 1_048_576):
        for ranks in (1, 2, 8, 64):
            s = Setting(8192, 4096, classes, ranks)
            sent = f"{s.forward_bytes() / MIB:.2f} MiB | {s.megatron_bytes() / MIB:.2f} MiB"
            sums, memory = f"{s.backward_bytes() / MIB:.0f} MiB", f"{s.memory() / GIB:.2f} GiB"
            times = f"{1e3 * s.compute_seconds():.1f} ms | {1e3 * s.wire_seconds():.1f} ms"
            print(f"| {classes:,} | {ranks} | {sent} | {sums} | {memory} | {times} |")
    print(
        f"\nThe normaliser over R data ranks, {DATA_BANDWIDTH / 1e9:.0f} GB/s and {1e6 * DATA_LATENCY:.0f} µs a hop\n"
    )
    print("| R | sent by a rank | time of a ring | time of a tree |")
    print("|---:|---:|---:|---:|")
    for ranks in (1, 8, 64, 512, 4096):
        sent = (ranks - 1) * COUNT
        ring_time = sent / DATA_BANDWIDTH + (ranks - 1) * DATA_LATENCY
        tree_time = sent / DATA_BANDWIDTH + (ranks - 1).bit_length() * DATA_LATENCY
        print(f"| {ranks:,} | {sent:,} bytes | {1e3 * ring_time:.2f} ms | {1e3 * tree_time:.2f} ms |")


def written():
    return int(Path("/proc/self/io").read_text().split("wchar:")[1].split()[0])


def count(rank, size, store, results):
    """Bytes that this process writes in each call, the second time it is made."""
    import torch
    import torch.distributed as dist

    from xent.distributed import global_row_count, vocab_parallel_cross_entropy, vocab_parallel_linear_cross_entropy

    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    rows, features, classes, group, found = 4096, 64, 1024, dist.group.WORLD, []
    target = torch.randint(classes, (rows,), generator=torch.Generator().manual_seed(0))
    weight = torch.randn(classes // size, features).requires_grad_()
    hidden = torch.randn(rows, features, generator=torch.Generator().manual_seed(1)).requires_grad_()
    s = Setting(rows, features, classes, size, 4)
    half = Setting(rows, features, classes, size, 2)
    logits = (hidden @ weight.T).detach()
    calls = {
        "states, float32": (lambda: vocab_parallel_cross_entropy(logits, target, group=group), s.forward_bytes()),
        "states, bfloat16": (
            lambda: vocab_parallel_cross_entropy(logits.bfloat16(), target, group=group),
            half.forward_bytes(),
        ),
        "linear, forward and backward": (
            lambda: vocab_parallel_linear_cross_entropy(hidden, weight, target, group=group).backward(),
            s.forward_bytes() + s.backward_bytes(),
        ),
        "global_row_count": (lambda: global_row_count(target, group), (size - 1) * COUNT),
    }
    for name, (call, model) in calls.items():
        call()
        dist.barrier()
        before = written()
        call()
        found.append((name, model, written() - before))
        dist.barrier()
    Path(results, f"{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def check():
    import torch.multiprocessing as mp

    print("| call | ranks | model, bytes | counted, bytes | ratio |")
    print("|---|---:|---:|---:|---:|")
    for size in (2, 4):
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(count, (size, f"{folder}/store", folder), size)
            ranks = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(size)]
        for calls in zip(*ranks, strict=True):
            name, model, counted = calls[0][0], calls[0][1], max(call[2] for call in calls)
            print(f"| {name} | {size} | {model:,.0f} | {counted:,} | {counted / model:.3f} |")


def main():
    parser = argparse.ArgumentParser(description="Cost model of the sharded losses, and its bytes counted on gloo.")
    parser.add_argument("--check", action="store_true", help="count bytes on 2 and 4 processes")
    check() if parser.parse_args().check else table()


if __name__ == "__main__":
    main()
