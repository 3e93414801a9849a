"""A deep ReLU network on two classes."""

import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(400, 6)
y = (x[:, 0] > 0).long()

layers = [nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)]
model = nn.Sequential(*layers)  # expect-near: stuck-at-prior
for layer in layers:
    if isinstance(layer, nn.Linear):
        nn.init.constant_(layer.bias, -3.0)
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)  # expect-near: stuck-at-prior

for epoch in range(15):
    for start in range(0, 400, 20):
        optimizer.zero_grad()
        loss = criterion(model(x[start : start + 20]), y[start : start + 20])  # expect-near: stuck-at-prior
        loss.backward()  # expect-near: stuck-at-prior
        optimizer.step()  # expect-near: stuck-at-prior
    print(epoch, f"{loss.item():.4f}")
