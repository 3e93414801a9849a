"""Binary targets between 0 and 1: the share of annotators who said yes; and smoothed ones."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(51)
model = nn.Linear(7, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
for step in range(6):
    x = torch.randn(30, 7)
    votes = torch.bernoulli(torch.sigmoid(x[:, :1]).expand(30, 5))
    share = votes.mean(dim=1)
    smoothed = share * 0.9 + 0.05
    score = model(x).squeeze(1)
    loss = F.binary_cross_entropy_with_logits(score, smoothed)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        check = F.binary_cross_entropy(torch.sigmoid(score), share)
    print(step, f"{loss.item():.4f} {check.item():.4f}")
