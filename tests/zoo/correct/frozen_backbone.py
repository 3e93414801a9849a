"""A frozen backbone; the optimizer holds the head alone."""

import torch
from torch import nn

torch.manual_seed(3)
backbone = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
backbone.requires_grad_(False)
backbone.eval()
head = nn.Linear(32, 5)
model = nn.Sequential(backbone, head)
optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=0.01)
criterion = nn.CrossEntropyLoss()

for step in range(8):
    x = torch.randn(20, 16)
    y = x[:, :5].argmax(dim=1)
    optimizer.zero_grad()
    loss = criterion(model(x), y)
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
