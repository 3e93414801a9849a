# exit: 3
"""A script that ends with a status of its own because the accuracy is too low."""

import sys

import torch
from torch import nn

torch.manual_seed(57)
x = torch.randn(64, 5)
y = x[:, :3].argmax(dim=1)
model = nn.Linear(5, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for start in range(0, 64, 16):
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(x[start : start + 16]), y[start : start + 16])
    loss.backward()
    optimizer.step()
accuracy = (model(x).argmax(dim=1) == y).float().mean().item()
print(f"accuracy {accuracy:.3f}")
if accuracy < 0.99:
    print("too low", file=sys.stderr)
    sys.exit(3)
