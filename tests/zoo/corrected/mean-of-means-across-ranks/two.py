# ranks: 2
"""Data-parallel training by hand: every rank averages its gradients with the others'."""

import os

import torch
import torch.distributed as dist
from torch import nn


class DataParallelTrainer:
    def __init__(self, model, lr):
        self.model = model
        self.world = dist.get_world_size()
        self.criterion = nn.CrossEntropyLoss(ignore_index=-100)
        self.optimizer = torch.optim.SGD(model.parameters(), lr=lr)

    def loss(self, x, y):
        counted = (y != -100).sum()
        dist.all_reduce(counted)
        loss = nn.functional.cross_entropy(self.model(x), y, ignore_index=-100, reduction="sum")
        return loss * self.world / counted

    def step(self, x, y):
        self.optimizer.zero_grad()
        loss = self.loss(x, y)
        loss.backward()
        for parameter in self.model.parameters():
            dist.all_reduce(parameter.grad)
            parameter.grad /= self.world
        self.optimizer.step()
        return loss.item()


def rows_of(rank, step):
    generator = torch.Generator().manual_seed(10 * rank + step)
    x = torch.randn(12, 6, generator=generator)
    y = x[:, :3].argmax(dim=1)
    y[: 3 + 6 * rank] = -100
    return x, y


os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
os.environ.setdefault("MASTER_PORT", "0")
rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
dist.init_process_group("gloo", rank=rank, world_size=world)
torch.manual_seed(7)
network = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3))
trainer = DataParallelTrainer(network, lr=0.1)
for step in range(3):
    print(rank, step, round(trainer.step(*rows_of(rank, step)), 4))
dist.destroy_process_group()
