"""Classify points around three centres with a small network."""

import torch
from torch import nn, optim

torch.manual_seed(0)
centres = torch.tensor([[2.0, 0.0, 1.0, -1.0], [-2.0, 1.0, 0.0, 1.0], [0.0, -2.0, -1.0, 0.5]])
y = torch.arange(96) % 3
x = centres[y] + 0.5 * torch.randn(96, 4)

model = nn.Sequential(
    nn.Linear(4, 16),
    nn.ReLU(),
    nn.Linear(16, 3),
    nn.Softmax(dim=1),
)
criterion = nn.CrossEntropyLoss()
optimizer = optim.Adam(model.parameters(), lr=0.01)

for epoch in range(2):
    for start in range(0, 96, 32):
        xb, yb = x[start : start + 32], y[start : start + 32]
        optimizer.zero_grad()
        output = model(xb)
        loss = criterion(output, yb)  # expect: softmax-before-cross-entropy
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss {loss.item():.4f}")
