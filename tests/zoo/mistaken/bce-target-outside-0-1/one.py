"""A linear classifier with labels of −1 and +1, as in the support vector literature."""

import torch
from torch import nn

torch.manual_seed(2)
points = torch.randn(100, 3)
labels = torch.where(points[:, 0] + 0.5 * points[:, 1] > 0, 1.0, -1.0)

model = nn.Linear(3, 1)
criterion = nn.BCEWithLogitsLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

for start in range(0, 100, 25):
    batch, target = points[start : start + 25], labels[start : start + 25]
    optimizer.zero_grad()
    loss = criterion(model(batch).flatten(), target)  # expect: bce-target-outside-0-1
    loss.backward()
    optimizer.step()
    print("loss", loss.item())
