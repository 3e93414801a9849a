"""Two models trained in two threads at the same time."""

import threading

import torch
from torch import nn

results = {}


def train(name, width):
    generator = torch.Generator().manual_seed(61)
    model = nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Linear(width, 3))
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -0.4, 0.4, generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(10):
        x = torch.randn(16, 5, generator=generator)
        loss = nn.functional.cross_entropy(model(x), x[:, :3].argmax(dim=1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    results[name] = loss.item()


threads = [threading.Thread(target=train, args=(name, width)) for name, width in (("narrow", 4), ("wide", 24))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
for name in sorted(results):
    print(name, f"{results[name]:.4f}")
