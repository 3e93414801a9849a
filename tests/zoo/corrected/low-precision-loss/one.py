"""The whole network in bfloat16, to save memory."""

import torch
from torch import nn

torch.manual_seed(1)
model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 100)).to(torch.bfloat16)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
criterion = nn.CrossEntropyLoss()

for step in range(4):
    x = torch.randn(32, 16)
    y = (x[:, 0].abs() * 30).long().clamp(max=99)
    optimizer.zero_grad()
    logits = model(x.to(torch.bfloat16))
    loss = criterion(logits.float(), y)
    loss.backward()
    optimizer.step()
    print(step, loss.item())
