"""The loss by indexing, as in a lecture."""

import torch
from torch import nn

torch.manual_seed(10)
x = torch.randn(30, 4)
y = x[:, :3].argmax(dim=1)

model = nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

for start in range(0, 30, 10):
    yb = y[start : start + 10]
    log_probs = torch.log_softmax(model(x[start : start + 10]), dim=1)
    loss = -log_probs[torch.arange(len(yb)), yb].mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(loss.item())
