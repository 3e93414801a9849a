"""Full-batch gradient descent on a small network, with a large step."""

import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(60, 5)
y = (x[:, :1].abs() + x[:, 1:2] > 0.8).long().squeeze(1)

model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 2))
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

for step in range(8):
    optimizer.zero_grad()
    loss = criterion(model(x), y)
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
