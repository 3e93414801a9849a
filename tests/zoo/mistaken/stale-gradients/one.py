"""A plain training loop."""

import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(80, 6)
y = (x[:, 0] * x[:, 1] > 0).long()

model = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 2))
loss_fn = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)  # expect-near: stale-gradients

for epoch in range(2):
    for start in range(0, 80, 20):
        loss = loss_fn(model(x[start : start + 20]), y[start : start + 20])
        loss.backward()  # expect-near: stale-gradients
        optimizer.step()  # expect-near: stale-gradients
    print(epoch, f"{loss.item():.4f}")
