"""Smoothed labels in training, plain ones in validation."""

import torch
from torch import nn

torch.manual_seed(20)
x = torch.randn(120, 9)
y = x[:, :5].argmax(dim=1)
model = nn.Sequential(nn.Linear(9, 18), nn.ReLU(), nn.Linear(18, 5))
train_criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
valid_criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
for start in range(0, 96, 24):
    loss = train_criterion(model(x[start : start + 24]), y[start : start + 24])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        valid = valid_criterion(model(x[96:]), y[96:])
    print(f"train {loss.item():.4f} valid {valid.item():.4f}")
