"""Logistic regression with L-BFGS: several evaluations of a closure per step."""

import torch
from torch import nn

torch.manual_seed(26)
x = torch.randn(80, 4)
y = (x @ torch.tensor([1.0, -2.0, 0.5, 0.0]) + 0.7 * torch.randn(80) > 0).long()
model = nn.Linear(4, 2)
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=5)


def closure():
    optimizer.zero_grad()
    loss = criterion(model(x), y) + 1e-3 * model.weight.square().sum()
    loss.backward()
    return loss


for step in range(4):
    loss = optimizer.step(closure)
    print(step, f"{loss.item():.5f}")
