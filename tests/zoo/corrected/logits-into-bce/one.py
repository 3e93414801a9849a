"""Logistic regression on two features."""

import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(64, 2) * 3
y = (x.sum(dim=1) > 0).float()

model = nn.Linear(2, 1)
loss_fn = nn.BCEWithLogitsLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

for epoch in range(3):
    optimizer.zero_grad()
    prediction = model(x).squeeze(1)
    loss = loss_fn(prediction, y)
    loss.backward()
    optimizer.step()
    print(epoch, loss.item())
