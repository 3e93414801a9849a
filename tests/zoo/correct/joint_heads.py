"""Two tasks in one loss, with learned uncertainties as weights."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(33)
trunk = nn.Sequential(nn.Linear(8, 16), nn.ReLU())
heads = nn.ModuleList([nn.Linear(16, 3), nn.Linear(16, 5)])
log_variances = nn.Parameter(torch.zeros(2))
optimizer = torch.optim.Adam([*trunk.parameters(), *heads.parameters(), log_variances], lr=0.01)
for step in range(6):
    x = torch.randn(24, 8)
    targets = (x[:, :3].argmax(dim=1), x[:, 3:].argmax(dim=1))
    features = trunk(x)
    losses = torch.stack([F.cross_entropy(head(features), y) for head, y in zip(heads, targets, strict=True)])
    total = (losses * torch.exp(-log_variances) + log_variances / 2).sum()
    optimizer.zero_grad()
    total.backward()
    optimizer.step()
    print(step, [round(value, 4) for value in losses.tolist()])
