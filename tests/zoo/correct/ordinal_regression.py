"""Ordinal regression: one score, ordered thresholds, a binary loss for each of them."""

import torch
import torch.nn.functional as F
from torch import nn


class Ordinal(nn.Module):
    def __init__(self, features, levels):
        super().__init__()
        self.score = nn.Linear(features, 1, bias=False)
        self.first = nn.Parameter(torch.tensor(-1.0))
        self.gaps = nn.Parameter(torch.zeros(levels - 2))

    def forward(self, x):
        thresholds = self.first + torch.cat([torch.zeros(1), F.softplus(self.gaps).cumsum(0)])
        return self.score(x) - thresholds


torch.manual_seed(53)
model = Ordinal(5, levels=4)
optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
for step in range(6):
    x = torch.randn(40, 5)
    level = torch.bucketize(x[:, 0], torch.tensor([-0.7, 0.0, 0.7]))
    above = (level[:, None] > torch.arange(3)).float()
    loss = F.binary_cross_entropy_with_logits(model(x), above, reduction="none").sum(dim=1).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
