"""A wide network with normally distributed weights."""

import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(20, 128), nn.ReLU(), nn.Linear(128, 10))  # expect-near: initial-loss-too-high
for parameter in model.parameters():
    nn.init.normal_(parameter)
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.001)  # expect-near: initial-loss-too-high

for step in range(5):
    x = torch.randn(32, 20)
    y = x[:, :10].argmax(dim=1)
    optimizer.zero_grad()
    loss = criterion(model(x), y)  # expect-near: initial-loss-too-high
    loss.backward()  # expect-near: initial-loss-too-high
    optimizer.step()  # expect-near: initial-loss-too-high
    print(step, f"{loss.item():.3f}")
