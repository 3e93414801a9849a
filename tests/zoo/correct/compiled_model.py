"""A model compiled with torch.compile, the loss outside of it; then a compiled step."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(44)
model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 4))
compiled = torch.compile(model, backend="eager")
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)


@torch.compile(backend="eager")
def loss_of(x, y):
    return F.cross_entropy(model(x), y)


for step in range(4):
    x = torch.randn(16, 6)
    y = x[:, :4].argmax(dim=1)
    loss = F.cross_entropy(compiled(x), y) if step % 2 else loss_of(x, y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
