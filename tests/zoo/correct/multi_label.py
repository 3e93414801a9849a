"""Several labels per picture: BCEWithLogits with positive weights, sigmoid only to predict."""

import torch
from torch import nn

torch.manual_seed(50)
x = torch.randn(96, 12)
y = (x[:, :5] + 0.3 * torch.randn(96, 5) > 0.8).float()
model = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 5))
criterion = nn.BCEWithLogitsLoss(pos_weight=(1 - y.mean(dim=0)) / y.mean(dim=0))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for start in range(0, 96, 24):
    logits = model(x[start : start + 24])
    loss = criterion(logits, y[start : start + 24])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    predicted = torch.sigmoid(logits) > 0.5
    print(f"{loss.item():.4f}, {predicted.float().mean().item():.3f} positive")
