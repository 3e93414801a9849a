"""Does a customer stay? A binary classifier on eight features."""

import torch
from torch import nn

torch.manual_seed(17)
customers = torch.randn(120, 8)
stays = (customers[:, :1] - customers[:, 1:2] > 0).float()

model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1), nn.Sigmoid())
criterion = nn.BCEWithLogitsLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

for epoch in range(2):
    for i in range(0, 120, 30):
        loss = criterion(model(customers[i : i + 30]), stays[i : i + 30])  # expect: sigmoid-twice
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch} loss {loss.item():.4f}")
