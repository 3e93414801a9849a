"""Gradient accumulation over unequal micro-batches: every mean times its share of the rows."""

import torch
from torch import nn

torch.manual_seed(8)
x = torch.randn(90, 6)
y = x[:, :3].argmax(dim=1)
model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3))
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.2)

for start in range(0, 90, 30):
    optimizer.zero_grad()
    for xb, yb in zip(x[start : start + 30].split(12), y[start : start + 30].split(12), strict=True):
        loss = criterion(model(xb), yb) * len(yb) / 30
        loss.backward()
    optimizer.step()
    print(f"{loss.item():.4f}")
