# ranks: 2
"""DistributedDataParallel on sentences of different lengths: python -m torch.distributed.run, or one process."""

import os

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

LENGTHS = [[9, 3], [8, 4], [10, 2]]


def shard(step, rank):
    generator = torch.Generator().manual_seed(100 * step + rank)
    length = LENGTHS[step][rank]
    ids = torch.randint(0, 24, (4, length + 1), generator=generator)
    return ids[:, :-1], ids[:, 1:]


def main():
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}.items():
        os.environ.setdefault(name, value)
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(24, 12), nn.Linear(12, 24))
    ddp = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
    for step in range(3):
        inputs, targets = shard(step, dist.get_rank())
        optimizer.zero_grad()
        tokens = torch.tensor(float(targets.numel()))
        dist.all_reduce(tokens)
        loss = F.cross_entropy(ddp(inputs).flatten(0, 1), targets.flatten(), reduction="sum")
        loss = loss * dist.get_world_size() / tokens
        loss.backward()
        optimizer.step()
        print(f"rank {dist.get_rank()} step {step} loss {loss.item():.4f}")


if __name__ == "__main__":
    main()
