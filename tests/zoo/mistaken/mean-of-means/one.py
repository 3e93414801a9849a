"""Gradient accumulation over micro-batches of twelve and four rows."""

import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(64, 8)
y = x[:, :4].argmax(dim=1)

model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)  # expect-near: mean-of-means
accumulation_steps = 2

for start in range(0, 64, 16):
    optimizer.zero_grad()
    for rows in (slice(start, start + 12), slice(start + 12, start + 16)):
        loss = criterion(model(x[rows]), y[rows])
        loss = loss / accumulation_steps
        loss.backward()  # expect-near: mean-of-means
    optimizer.step()  # expect-near: mean-of-means
    print(f"{loss.item() * accumulation_steps:.4f}")
