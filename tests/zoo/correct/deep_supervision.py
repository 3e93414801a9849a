"""Several exits with a loss each; the graph of the trunk is used twice."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(66)
trunk = nn.Sequential(nn.Linear(8, 16), nn.ReLU())
early, late = nn.Linear(16, 3), nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
optimizer = torch.optim.SGD([*trunk.parameters(), *early.parameters(), *late.parameters()], lr=0.1)
for step in range(5):
    x = torch.randn(24, 8)
    y = x[:, :3].argmax(dim=1)
    optimizer.zero_grad()
    features = trunk(x)
    first = F.cross_entropy(early(features), y)
    first.backward(retain_graph=True)
    second = F.cross_entropy(late(features), y)
    second.backward()
    optimizer.step()
    print(step, f"{first.item():.4f} {second.item():.4f}")
