"""Mixup in both of its forms: two losses, or one soft target."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(2)
rng = np.random.default_rng(0)
x = torch.randn(96, 10)
y = x[:, :4].argmax(dim=1)
model = nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 4))
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

for start in range(0, 96, 24):
    xb, yb = x[start : start + 24], y[start : start + 24]
    lam = float(rng.beta(0.4, 0.4))
    order = torch.randperm(24)
    logits = model(lam * xb + (1 - lam) * xb[order])
    loss = lam * F.cross_entropy(logits, yb) + (1 - lam) * F.cross_entropy(logits, yb[order])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

    target = lam * F.one_hot(yb, 4) + (1 - lam) * F.one_hot(yb[order], 4)
    with torch.no_grad():
        same = F.cross_entropy(logits, target)
    print(f"{loss.item():.4f} {same.item():.4f}")
