"""The average loss of an epoch."""

import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(96, 7)
y = x[:, :4].argmax(dim=1)

model = nn.Sequential(nn.Linear(7, 14), nn.ReLU(), nn.Linear(14, 4))
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

for epoch in range(3):
    running_loss = 0
    for start in range(0, 96, 12):
        optimizer.zero_grad()
        loss = criterion(model(x[start : start + 12]), y[start : start + 12])
        loss.backward()
        optimizer.step()
        running_loss += loss.item()
    print(f"epoch {epoch}: {running_loss / 8:.4f}")
