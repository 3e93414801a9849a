# exit: 1
"""Labels read with numpy as floating-point numbers."""

import numpy as np
import torch
from torch import nn

torch.manual_seed(0)
table = np.random.default_rng(7).normal(size=(50, 6))
table[:, 5] = np.digitize(table[:, 0], [-0.5, 0.5])

features = torch.tensor(table[:, :5], dtype=torch.float32)
labels = torch.tensor(table[:, 5], dtype=torch.float32)

model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3))
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

for epoch in range(4):
    optimizer.zero_grad()
    loss = criterion(model(features), labels)  # expect: target-dtype-or-shape
    loss.backward()
    optimizer.step()
    print(f"epoch {epoch}: {loss.item():.3f}")
