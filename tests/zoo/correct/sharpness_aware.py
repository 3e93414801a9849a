"""Sharpness-aware minimisation: climb, take the gradient there, go back, step."""

import torch
from torch import nn


class SAM:
    def __init__(self, parameters, rho, lr):
        self.parameters = list(parameters)
        self.rho = rho
        self.base = torch.optim.SGD(self.parameters, lr=lr, momentum=0.9)

    @torch.no_grad()
    def climb(self):
        norm = torch.stack([p.grad.norm() for p in self.parameters]).norm()
        self.offsets = [p.grad * (self.rho / (norm + 1e-12)) for p in self.parameters]
        torch._foreach_add_(self.parameters, self.offsets)
        self.base.zero_grad()

    @torch.no_grad()
    def descend(self):
        torch._foreach_sub_(self.parameters, self.offsets)
        self.base.step()
        self.base.zero_grad()


torch.manual_seed(28)
model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3))
criterion = nn.CrossEntropyLoss()
sam = SAM(model.parameters(), rho=0.05, lr=0.05)
for step in range(6):
    x = torch.randn(24, 6)
    y = x[:, :3].argmax(dim=1)
    loss = criterion(model(x), y)
    loss.backward()
    sam.climb()
    criterion(model(x), y).backward()
    sam.descend()
    print(step, f"{loss.item():.4f}")
