"""Non-negative logits: the last layer ends with a ReLU, and some rows are all zero."""

import torch
from torch import nn

torch.manual_seed(15)
model = nn.Sequential(nn.Linear(8, 20), nn.ReLU(), nn.Linear(20, 5), nn.ReLU())
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
criterion = nn.CrossEntropyLoss()
for step in range(6):
    x = torch.randn(24, 8)
    y = x[:, :5].argmax(dim=1)
    optimizer.zero_grad()
    loss = criterion(model(x), y)
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
