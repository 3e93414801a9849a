"""Train a classifier of flowers with the negative log-likelihood loss."""

import torch
from torch import nn

torch.manual_seed(8)
species = torch.arange(60) % 3
measurements = torch.randn(60, 4) + species[:, None].float()

classifier = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 3))
criterion = nn.NLLLoss()
optimizer = torch.optim.SGD(classifier.parameters(), lr=0.01)

for epoch in range(2):
    order = torch.randperm(60)
    for rows in order.split(20):
        optimizer.zero_grad()
        scores = classifier(measurements[rows])
        loss = criterion(scores, species[rows])  # expect: nll-without-log-probs
        loss.backward()
        optimizer.step()
        print("loss:", loss.item())
