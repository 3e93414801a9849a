"""A small classifier, trained epoch by epoch."""

import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(96, 6)
y = (x[:, :3].sum(dim=1) > 0).long()
model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

for epoch in range(3):
    for start in range(0, 96, 32):
        output = model(x[start : start + 32])
        loss = criterion(output, y[start : start + 32])
        loss.backward()
        optimizer.zero_grad()  # expect: gradients-cleared-before-step
        optimizer.step()
    print(epoch, f"{loss.item():.4f}")
