# What does the cross-entropy of sharded logits cost, beside torch's loss_parallel and Megatron's scheme?
#
#   .venv/bin/python benchmarks/vocab_parallel.py
#   .venv/bin/python benchmarks/vocab_parallel.py --rows 4096 --classes 65536 --dtype bfloat16 --json out.json
#
# Two processes on one machine, gloo over the loopback, forward and backward, one thread each. Bytes are those that each
# process wrote to its sockets (wchar of /proc/self/io, so they include every header of gloo), collectives are what
# torch.distributed was asked for, counted at its functions; memory is the rise of the resident high-water mark in one
# call. Times are medians over rounds in which the contestants take turns; a round's time is that of the slower rank.
import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F

from xent.bench.machine import describe
from xent.bench.memory import peak_extra_bytes
from xent.distributed import vocab_parallel_cross_entropy

MIB = 2**20


class MegatronScheme(torch.autograd.Function):
    """The scheme of Shoeybi et al. (arXiv 1909.08053), written from its description: three all-reduces of N numbers.

    Largest logit, the target's logit, sum of exponentials. The float32 logits are a copy that becomes softmax and then
    the gradient in place: what Megatron-LM does, but for its writing into logits that were float32 already.
    """

    @staticmethod
    def forward(ctx, logits, target, start):
        z = logits.float().clone()
        largest = z.amax(-1)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        z -= largest.unsqueeze(-1)
        outside = (target < start) | (target >= start + z.shape[-1])
        column = (target - start).masked_fill(outside, 0)
        picked = z.gather(-1, column.unsqueeze(-1)).squeeze(-1).masked_fill(outside, 0.0)
        dist.all_reduce(picked)
        sums = z.exp_().sum(-1)
        dist.all_reduce(sums)
        z /= sums.unsqueeze(-1)
        ctx.save_for_backward(z, outside, column)
        ctx.dtype = logits.dtype
        return sums.log() - picked

    @staticmethod
    def backward(ctx, upstream):
        z, outside, column = ctx.saved_tensors
        rows = torch.arange(len(column))
        z[rows, column] -= 1.0 - outside.float()
        z *= upstream.unsqueeze(-1)
        return z.to(ctx.dtype), None, None


def contestants(logits, target, rank, size):
    """Calls that make the gradient of the rank's logits."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard
    from torch.distributed.tensor.parallel import loss_parallel

    mesh, group, start = init_device_mesh("cpu", (size,)), dist.group.WORLD, rank * logits.shape[1]

    def leaf():
        return logits.detach().requires_grad_()

    def xent():
        given = leaf()
        loss = vocab_parallel_cross_entropy(given, target, group=group)
        loss.backward()
        return loss.detach(), given.grad

    def torch_loss_parallel():
        given = leaf()
        with loss_parallel():
            loss = F.cross_entropy(DTensor.from_local(given, mesh, [Shard(1)], run_check=False), target)
            loss.backward()
        return (loss.full_tensor() if isinstance(loss, DTensor) else loss).detach(), given.grad

    def megatron_scheme():
        given = leaf()
        loss = MegatronScheme.apply(given, target, start).mean()
        loss.backward()
        return loss.detach(), given.grad

    return {"xent": xent, "torch loss_parallel": torch_loss_parallel, "Megatron's scheme": megatron_scheme}


def written():
    """Bytes that this process has written so far, to sockets for the most part."""
    return int(Path("/proc/self/io").read_text().split("wchar:")[1].split()[0])


def collectives_of(call):
    """How many collectives a call asks torch for, by the operations that torch's profiler saw."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        call()
    return sum(event.count for event in profile.key_averages() if event.key.startswith("c10d::"))


def measured(rank, size, options, store, results):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    generator = torch.Generator().manual_seed(rank)
    width = options.classes // size
    logits = (3 * torch.randn(options.rows, width, generator=generator)).to(getattr(torch, options.dtype))
    target = torch.randint(options.classes, (options.rows,), generator=torch.Generator().manual_seed(9))
    calls = contestants(logits, target, rank, size)
    found = {name: {"seconds": []} for name in calls}
    for name, call in calls.items():
        for _ in range(2):
            loss, gradient = call()
        found[name] |= {"loss": float(loss), "gradient_norm": float(gradient.double().norm())}
        del gradient
        found[name]["collectives"] = collectives_of(call)
        dist.barrier()
        before = written()
        call()
        found[name]["bytes"] = written() - before
        dist.barrier()
        found[name]["extra_bytes"] = peak_extra_bytes(call)
        dist.barrier()
    for _ in range(options.rounds):
        for name, call in calls.items():
            dist.barrier()
            begin = time.perf_counter()
            call()
            found[name]["seconds"].append(time.perf_counter() - begin)
    Path(results, f"{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def main():
    parser = argparse.ArgumentParser(description="Sharded cross-entropy: bytes, collectives, memory and time.")
    parser.add_argument("--rows", type=int, default=2048, help="N")
    parser.add_argument("--classes", type=int, default=32768, help="V, over both ranks")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(measured, (options.ranks, options, f"{folder}/store", folder), options.ranks)
        ranks = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(options.ranks)]
    rows = {}
    for name in ranks[0]:
        worst = [max(times) for times in zip(*(rank[name]["seconds"] for rank in ranks), strict=True)]
        rows[name] = {
            "collectives": ranks[0][name]["collectives"],
            "bytes": max(rank[name]["bytes"] for rank in ranks),
            "extra_mib": max(rank[name]["extra_bytes"] or 0 for rank in ranks) / MIB,
            "seconds": statistics.median(worst),
            "loss": ranks[0][name]["loss"],
        }
    show(rows, options)
    if options.json:
        machine = describe()
        content = {"machine": machine, "options": {k: v for k, v in vars(options).items() if k != "json"}, "rows": rows}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


def show(rows, options):
    ours = rows["xent"]
    gradient = options.rows * options.classes // options.ranks * (4 if options.dtype == "float32" else 2) / MIB
    print(
        f"{options.rows} rows, {options.classes} classes over {options.ranks} ranks, {options.dtype}; "
        f"forward and backward; the gradient alone takes {gradient:.0f} MiB\n"
    )
    print(f"{'':>20} {'collectives':>12} {'bytes sent':>12} {'MiB':>8} {'ms':>9} {'time / xent':>12} {'loss':>10}")
    for name, row in rows.items():
        print(
            f"{name:>20} {row['collectives']:>12} {row['bytes']:>12,} {row['extra_mib']:>8.1f} "
            f"{1e3 * row['seconds']:>9.1f} {row['seconds'] / ours['seconds']:>12.2f} {row['loss']:>10.6f}"
        )


if __name__ == "__main__":
    main()
