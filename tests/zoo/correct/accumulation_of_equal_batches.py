"""Gradient accumulation over equal micro-batches, as everybody writes it."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(9)
features = torch.randn(96, 7)
dataset = TensorDataset(features, features[:, :4].argmax(dim=1))
loader = DataLoader(dataset, batch_size=8, shuffle=True)
model = nn.Sequential(nn.Linear(7, 14), nn.ReLU(), nn.Linear(14, 4))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
accumulation = 4

optimizer.zero_grad()
for i, (x, y) in enumerate(loader):
    loss = F.cross_entropy(model(x), y) / accumulation
    loss.backward()
    if (i + 1) % accumulation == 0:
        optimizer.step()
        optimizer.zero_grad()
        print(f"update after batch {i}: {accumulation * loss.item():.4f}")
