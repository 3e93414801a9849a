"""A search over learning rates in two processes."""

import multiprocessing

import torch
from torch import nn


def train(lr):
    torch.manual_seed(60)
    torch.set_num_threads(1)
    model = nn.Sequential(nn.Linear(5, 10), nn.ReLU(), nn.Linear(10, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for _ in range(5):
        x = torch.randn(16, 5)
        loss = nn.functional.cross_entropy(model(x), x[:, :3].argmax(dim=1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return lr, round(loss.item(), 4)


if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for lr, loss in pool.map(train, [0.01, 0.03, 0.1, 0.3]):
            print(lr, loss)
