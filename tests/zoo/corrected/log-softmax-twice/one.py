"""Small digit-like classifier, module-level script."""

import torch
from torch import nn

torch.manual_seed(0)
templates = torch.rand(10, 36)
labels = torch.arange(80) % 10
images = templates[labels] + 0.1 * torch.randn(80, 36)

net = nn.Sequential(nn.Linear(36, 32), nn.ReLU(), nn.Linear(32, 10), nn.LogSoftmax(dim=1))
loss_fn = nn.NLLLoss()
opt = torch.optim.Adam(net.parameters(), lr=3e-3)

for step in range(6):
    rows = torch.randperm(80)[:20]
    opt.zero_grad()
    loss = loss_fn(net(images[rows]), labels[rows])
    loss.backward()
    opt.step()
    print(step, f"{loss.item():.4f}")
