"""The logits are similarities that happen to lie between 0 and 1; nothing has squashed them."""

import torch
from torch import nn

torch.manual_seed(14)
x = torch.rand(64, 6)
y = x.argmax(dim=1)
weight = nn.Parameter(torch.rand(6, 6) / 6)
optimizer = torch.optim.SGD([weight], lr=0.05)
criterion = nn.CrossEntropyLoss()

for start in range(0, 64, 16):
    logits = x[start : start + 16] @ weight.T
    loss = criterion(logits, y[start : start + 16])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"{logits.min().item():.3f} … {logits.max().item():.3f}: {loss.item():.4f}")
