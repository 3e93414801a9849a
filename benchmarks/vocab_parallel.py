# What does the cross-entropy of sharded logits cost, beside torch's loss_parallel and Megatron's scheme?
#
#   .venv/bin/python benchmarks/vocab_parallel.py
#   .venv/bin/python benchmarks/vocab_parallel.py --case linear --json benchmarks/results/vocab-parallel/NAME.json
#
# Two processes on one machine, gloo over the loopback, forward and backward, one thread each; --case logits begins with
# the logits of a rank, --case linear with hidden states and a rank's rows of the weight. Bytes are those that each
# process wrote to its sockets (wchar of /proc/self/io, so they include every header of gloo), collectives are what
# torch.distributed was asked for, as torch's profiler saw them. Memory is the rise of the resident high-water mark in
# one call ("peak", the median of five), and the rise of the resident memory between forward and backward ("held").
# Times are medians over rounds in which the contestants take turns; a round's time is that of the slower rank.
import argparse
import contextlib
import ctypes
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F

from xent.bench.machine import describe
from xent.bench.memory import peak_extra_bytes
from xent.distributed import vocab_parallel_cross_entropy, vocab_parallel_linear_cross_entropy

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


class SummedGradient(torch.autograd.Function):
    """What stands before a column-parallel layer: nothing forward, an all-reduce backward."""

    @staticmethod
    def forward(ctx, hidden):
        return hidden.view_as(hidden)

    @staticmethod
    def backward(ctx, upstream):
        total = upstream.contiguous()
        dist.all_reduce(total)
        return total


def contestants(options, rank, size):
    """For each name a function that makes leaves, and one that makes the loss of them."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard
    from torch.distributed.tensor.parallel import loss_parallel

    mesh, group = init_device_mesh("cpu", (size,)), dist.group.WORLD
    tensors, target = problem(options, rank, size)
    start = rank * (options.classes // size)

    def leaves():
        return [tensor.detach().requires_grad_() for tensor in tensors]

    def logits_of(given):
        """A column-parallel linear layer: the gradient of the hidden states is summed over the ranks."""
        return given[0] if len(given) == 1 else SummedGradient.apply(given[0]) @ given[1].T

    def xent(given):
        if len(given) == 1:
            return vocab_parallel_cross_entropy(given[0], target, group=group)
        return vocab_parallel_linear_cross_entropy(given[0], given[1], target, group=group)

    def torch_loss_parallel(given):
        sharded = DTensor.from_local(logits_of(given), mesh, [Shard(1)], run_check=False)
        loss = F.cross_entropy(sharded, target)
        return loss.to_local() if isinstance(loss, DTensor) else loss

    def megatron_scheme(given):
        return MegatronScheme.apply(logits_of(given), target, start).mean()

    plain = contextlib.nullcontext
    return {
        "xent": Contestant(leaves, xent, plain),
        "torch loss_parallel": Contestant(leaves, torch_loss_parallel, loss_parallel),
        "Megatron's scheme": Contestant(leaves, megatron_scheme, plain),
    }


def problem(options, rank, size):
    """This rank's tensors and the targets; hidden states and targets are the same on every rank."""
    own, shared = (torch.Generator().manual_seed(seed) for seed in (rank, 9))
    dtype, width = getattr(torch, options.dtype), options.classes // size
    target = torch.randint(options.classes, (options.rows,), generator=shared)
    if options.case == "logits":
        return [(3 * torch.randn(options.rows, width, generator=own)).to(dtype)], target
    hidden = torch.randn(options.rows, options.features, generator=shared)
    weight = torch.randn(width, options.features, generator=own) * (3 * options.features**-0.5)
    return [hidden.to(dtype), weight.to(dtype)], target


@dataclass
class Contestant:
    leaves: Callable
    forward: Callable
    inside: Callable

    def step(self):
        given = self.leaves()
        with self.inside():
            loss = self.forward(given)
            loss.backward()
        return loss.detach(), [leaf.grad for leaf in given]

    def held(self):
        """How far the resident memory rose from before the forward pass until before the backward pass."""
        given = self.leaves()
        before = resident()
        with self.inside():
            loss = self.forward(given)
            after = resident()
            loss.backward()
        return after - before


def resident():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def written():
    """Bytes that this process has written so far, to sockets for the most part."""
    return int(Path("/proc/self/io").read_text().split("wchar:")[1].split()[0])


def collectives_of(call):
    """How many collectives a call asks torch for, by the operations that torch's profiler saw."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        call()
    return sum(event.count for event in profile.key_averages() if event.key.startswith("c10d::"))


def peak_of(step):
    """The median of five calls: some ten pages come and go with Python's own memory. One more comes before them."""
    peaks = []
    for _ in range(6):
        dist.barrier()
        peaks.append(peak_extra_bytes(step) or 0)
    dist.barrier()
    return statistics.median(peaks[1:])


def measured(rank, size, options, store, results):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    found = {}
    calls = contestants(options, rank, size)
    for name, call in calls.items():
        for _ in range(2):
            loss, gradients = call.step()
        found[name] = {"seconds": [], "loss": float(loss)}
        found[name]["gradient_norms"] = [float(gradient.double().norm()) for gradient in gradients]
        del gradients
        found[name]["collectives"] = collectives_of(call.step)
        dist.barrier()
        before = written()
        call.step()
        found[name]["bytes"] = written() - before
        dist.barrier()
        found[name]["peak_bytes"] = peak_of(call.step)
        found[name]["held_bytes"] = call.held()
        dist.barrier()
    for _ in range(options.rounds):
        for name, call in calls.items():
            dist.barrier()
            begin = time.perf_counter()
            call.step()
            found[name]["seconds"].append(time.perf_counter() - begin)
    Path(results, f"{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def main():
    parser = argparse.ArgumentParser(description="Sharded cross-entropy: bytes, collectives, memory and time.")
    parser.add_argument("--case", default="logits", choices=("logits", "linear"))
    parser.add_argument("--rows", type=int, default=2048, help="N")
    parser.add_argument("--classes", type=int, default=32768, help="V, over both ranks")
    parser.add_argument("--features", type=int, default=256, help="D, of --case linear")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--json", type=Path, help="put the numbers there, beside those of other cases")
    options = parser.parse_args()
    cases = earlier_cases(options.json)  # before the minutes of measuring
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(measured, (options.ranks, options, f"{folder}/store", folder), options.ranks)
        ranks = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(options.ranks)]
    rows = {}
    for name in ranks[0]:
        worst = [max(times) for times in zip(*(rank[name]["seconds"] for rank in ranks), strict=True)]
        rows[name] = {
            "collectives": ranks[0][name]["collectives"],
            "bytes": max(rank[name]["bytes"] for rank in ranks),
            "peak_mib": max(rank[name]["peak_bytes"] for rank in ranks) / MIB,
            "held_mib": max(rank[name]["held_bytes"] for rank in ranks) / MIB,
            "seconds": statistics.median(worst),
            "rounds": worst,
            "loss": ranks[0][name]["loss"],
        }
    show(rows, options)
    if options.json:
        write(rows, options, cases)


def earlier_cases(file):
    """Those that the file holds; of another machine, or other versions, it is left as it is."""
    if file is None or not file.exists():
        return {}
    content = json.loads(file.read_text())
    if content["machine"] != describe():
        sys.exit(f"{file} holds cases of another machine or other versions: pass another --json")
    return content["cases"]


def write(rows, options, cases):
    """Write the file with one case more."""
    said = {name: value for name, value in vars(options).items() if name != "json"}
    name = f"{options.case}-{options.dtype}-{options.rows}x{options.classes}-{options.ranks}ranks"
    arguments = [argument for argument in sys.argv[1:] if not argument.endswith(".json") and argument != "--json"]
    cases[name] = {
        "command": " ".join(["python benchmarks/vocab_parallel.py", *arguments]),
        "options": said,
        "rows": rows,
    }
    options.json.write_text(json.dumps({"machine": describe(), "cases": cases}, indent=1) + "\n")


def show(rows, options):
    ours = rows["xent"]
    width, size = options.classes // options.ranks, 4 if options.dtype == "float32" else 2
    numbers = options.rows * width if options.case == "logits" else (options.rows + width) * options.features
    print(
        f"{options.case}: {options.rows} rows, {options.classes} classes over {options.ranks} ranks, {options.dtype}; "
        f"forward and backward; the gradients alone take {numbers * size / MIB:.0f} MiB\n"
    )
    columns = ("collectives", "bytes sent", "peak MiB", "held MiB", "ms")
    print(f"{'':>20}" + "".join(f"{column:>18}" for column in columns) + f"{'loss':>12}")
    for name, row in rows.items():
        numbers = (row["collectives"], row["bytes"], row["peak_mib"], row["held_mib"], 1e3 * row["seconds"])
        base = (ours["collectives"], ours["bytes"], ours["peak_mib"], ours["held_mib"], 1e3 * ours["seconds"])
        cells = [
            f"{n:,.{digits}f}" + (f" ({n / b:.2f}×)" if row is not ours and b else "")
            for n, b, digits in zip(numbers, base, (0, 0, 2, 1, 1), strict=True)
        ]
        print(f"{name:>20}" + "".join(f"{cell:>18}" for cell in cells) + f"{row['loss']:>12.6f}")


if __name__ == "__main__":
    main()
