"""Class weights with a known denominator."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(19)
weight = torch.tensor([0.5, 1.0, 4.0])
model = nn.Linear(4, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(5):
    x = torch.randn(32, 4)
    y = torch.bucketize(x[:, 0], torch.tensor([0.0, 1.2]))
    loss = F.cross_entropy(model(x), y, weight=weight, reduction="sum") / weight[y].sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"{loss.item():.4f}")
