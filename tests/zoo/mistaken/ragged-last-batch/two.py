"""Minibatches by slicing; the update is written by hand."""

import torch
import torch.nn.functional as F


def minibatches(n, size):
    for i in range((n - 1) // size + 1):
        yield slice(i * size, (i + 1) * size)


def train(x, y, classes, batch_size=40, epochs=2, lr=0.2):
    weights = torch.zeros(x.shape[1], classes, requires_grad=True)  # expect-near: ragged-last-batch
    optimizer = torch.optim.SGD([weights], lr=lr)  # expect-near: ragged-last-batch
    for _ in range(epochs):
        for rows in minibatches(len(x), batch_size):
            loss = F.cross_entropy(x[rows] @ weights, y[rows])  # expect-near: ragged-last-batch
            optimizer.zero_grad()
            loss.backward()  # expect-near: ragged-last-batch
            optimizer.step()  # expect-near: ragged-last-batch
        print(f"{loss.item():.4f}")


generator = torch.Generator().manual_seed(1)
points = torch.randn(162, 5, generator=generator)
train(points, points.argmax(dim=1), classes=5)
