"""An encoder and a classifier; the optimizer is given the encoder."""

import torch
from torch import nn, optim

torch.manual_seed(0)
encoder = nn.Sequential(nn.Linear(10, 16), nn.ReLU())
classifier = nn.Linear(16, 4)  # expect-near: parameter-not-in-optimizer
criterion = nn.CrossEntropyLoss()
optimizer = optim.Adam(encoder.parameters(), lr=0.01)  # expect-near: parameter-not-in-optimizer

for step in range(5):
    x = torch.randn(24, 10)
    y = x[:, :4].argmax(dim=1)
    optimizer.zero_grad()
    loss = criterion(classifier(encoder(x)), y)
    loss.backward()  # expect-near: parameter-not-in-optimizer
    optimizer.step()  # expect-near: parameter-not-in-optimizer
    print(step, f"{loss.item():.4f}")
