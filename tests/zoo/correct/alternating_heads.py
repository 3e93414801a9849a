"""Two tasks in turn; each step reaches the head of its own task."""

import torch
import torch.nn.functional as F
from torch import nn


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(8, 16), nn.ReLU())
        self.heads = nn.ModuleDict({"sign": nn.Linear(16, 2), "which": nn.Linear(16, 8)})

    def forward(self, x, task):
        return self.heads[task](self.trunk(x))


torch.manual_seed(32)
model = TwoHeads()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for step in range(8):
    task = ("sign", "which")[step % 2]
    x = torch.randn(20, 8)
    y = (x[:, 0] > 0).long() if task == "sign" else x.argmax(dim=1)
    loss = F.cross_entropy(model(x, task), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(task, f"{loss.item():.4f}")
