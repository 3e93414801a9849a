"""Gradients cleared to zero instead of None, with clipping."""

import torch
from torch import nn

torch.manual_seed(18)
model = nn.Sequential(nn.Linear(5, 10), nn.ReLU(), nn.Linear(10, 3))
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
for step in range(8):
    x = torch.randn(16, 5)
    y = x[:, :3].argmax(dim=1)
    loss = criterion(model(x), y)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    print(step, f"{loss.item():.4f}")
