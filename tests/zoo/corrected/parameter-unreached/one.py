"""Features first, then a classifier on top of them."""

import torch
from torch import nn

torch.manual_seed(0)
features = nn.Sequential(nn.Linear(12, 20), nn.ReLU())
classifier = nn.Linear(20, 3)
params = list(features.parameters()) + list(classifier.parameters())
optimizer = torch.optim.SGD(params, lr=0.1)
criterion = nn.CrossEntropyLoss()

for step in range(6):
    x = torch.randn(16, 12)
    y = x[:, :3].argmax(dim=1)
    h = features(x)
    loss = criterion(classifier(h), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
