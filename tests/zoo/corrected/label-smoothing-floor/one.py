"""Label smoothing on a toy problem."""

import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(64, 10)
y = x[:, :4].argmax(dim=1)

model = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 4))
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

for start in range(0, 64, 16):
    optimizer.zero_grad()
    loss = criterion(model(x[start : start + 16]), y[start : start + 16])
    loss.backward()
    optimizer.step()
    print(f"{loss.item():.4f}")
