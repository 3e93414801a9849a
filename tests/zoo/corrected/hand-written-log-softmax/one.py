"""Logs of the probabilities, then the negative log-likelihood."""

import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(64, 8)
y = x[:, :5].argmax(dim=1)

model = nn.Linear(8, 5)
log_softmax = nn.LogSoftmax(dim=1)
nll = nn.NLLLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)

for start in range(0, 64, 16):
    log_probabilities = log_softmax(model(x[start : start + 16]))
    loss = nll(log_probabilities, y[start : start + 16])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(loss.item())
