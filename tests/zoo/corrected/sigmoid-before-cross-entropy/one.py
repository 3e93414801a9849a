"""XOR with a two-layer perceptron."""

import torch
from torch import nn, optim

torch.manual_seed(3)
inputs = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
truth = torch.tensor([0, 1, 1, 0])

hidden_dim = 5
model = nn.Sequential(nn.Linear(2, hidden_dim), nn.Sigmoid(), nn.Linear(hidden_dim, 2))
optimizer = optim.SGD(model.parameters(), lr=0.03)
criterion = nn.CrossEntropyLoss()

for _ in range(5):
    optimizer.zero_grad()
    predictions = model(inputs)
    loss = criterion(predictions, truth)
    loss.backward()
    optimizer.step()
    print(loss.item())
