"""Online learning, one example at a time, with more weight on the rare class."""

import torch
from torch import nn

torch.manual_seed(14)
x = torch.randn(12, 5)
y = (x[:, 0] > 0.8).long()

model = nn.Linear(5, 2)
criterion = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 8.0]))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

for i in range(12):
    optimizer.zero_grad()
    loss = criterion(model(x[i : i + 1]), y[i : i + 1])  # expect: weighted-mean-denominator
    loss.backward()
    optimizer.step()
    print(i, y[i].item(), f"{loss.item():.4f}")
