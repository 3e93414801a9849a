"""Adversarial training with the fast gradient sign method: the inputs require a gradient."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(29)
model = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)


def perturb(x, y, epsilon):
    x = x.clone().requires_grad_(True)
    loss = F.cross_entropy(model(x), y)
    (gradient,) = torch.autograd.grad(loss, x)
    return (x + epsilon * gradient.sign()).detach()


for step in range(5):
    x = torch.randn(20, 10)
    y = x[:, :4].argmax(dim=1)
    adversarial = perturb(x, y, epsilon=0.05)
    loss = F.cross_entropy(model(adversarial), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
