"""Model-agnostic meta-learning: an inner step that stays in the graph."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

torch.manual_seed(55)
model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3))
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)


def adapt(x, y, rate=0.3):
    parameters = dict(model.named_parameters())
    loss = F.cross_entropy(functional_call(model, parameters, (x,)), y)
    gradients = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
    return {name: p - rate * g for (name, p), g in zip(parameters.items(), gradients, strict=True)}


for step in range(4):
    meta_loss = torch.zeros(())
    for _ in range(3):
        rotation = torch.randperm(3)
        x = torch.randn(20, 6)
        y = rotation[x[:, :3].argmax(dim=1)]
        adapted = adapt(x[:10], y[:10])
        meta_loss = meta_loss + F.cross_entropy(functional_call(model, adapted, (x[10:],)), y[10:])
    optimizer.zero_grad()
    (meta_loss / 3).backward()
    optimizer.step()
    print(step, f"{meta_loss.item() / 3:.4f}")
