"""Layers frozen by requires_grad alone: the optimizer is given all parameters and skips those."""

import torch
import torch.nn.functional as F
from torch import nn


class Transfer(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(9, 18), nn.Tanh(), nn.Linear(18, 18), nn.Tanh())
        self.head = nn.Linear(18, 3)
        for parameter in self.body.parameters():
            parameter.requires_grad = False

    def forward(self, x):
        with torch.no_grad():
            features = self.body(x)
        return self.head(features)


torch.manual_seed(4)
model = Transfer()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
for _ in range(6):
    x = torch.randn(16, 9)
    loss = F.cross_entropy(model(x), x[:, :3].argmax(dim=1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(round(loss.item(), 4))
