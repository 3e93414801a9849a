"""Softmax regression on raw measurements in millimetres."""

import torch
import torch.nn.functional as F


class SoftmaxRegression(torch.nn.Module):
    def __init__(self, features, classes):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(features, classes))
        self.bias = torch.nn.Parameter(torch.zeros(classes))

    def forward(self, x):
        return x @ self.weight + self.bias


def measurements():
    generator = torch.Generator().manual_seed(6)
    species = torch.arange(45) % 3
    sizes = torch.tensor([[150.0, 80.0], [170.0, 95.0], [190.0, 90.0]])[species]
    return sizes + 10 * torch.randn(45, 2, generator=generator), species


def fit(lr, epochs):
    x, y = measurements()
    x = (x - x.mean(dim=0)) / x.std(dim=0)
    model = SoftmaxRegression(2, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for epoch in range(epochs):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"epoch {epoch}: {loss.item():.4f}")


fit(lr=0.1, epochs=6)
