"""Spam or not: one output, one column of labels."""

import torch
from torch import nn

torch.manual_seed(0)
words = torch.randn(80, 12)
spam = (words[:, 0] > 0).float().unsqueeze(1)

model = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 1))
criterion = nn.BCEWithLogitsLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

for i in range(0, 80, 20):
    optimizer.zero_grad()
    rows = slice(i, i + 20)
    loss = criterion(model(words[rows]), spam[rows])
    loss.backward()
    optimizer.step()
    print(f"loss {loss.item():.4f}")
