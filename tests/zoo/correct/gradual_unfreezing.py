"""The head first, then the body too: add_param_group when the body is unfrozen."""

import torch
from torch import nn

torch.manual_seed(5)
body = nn.Sequential(nn.Linear(8, 16), nn.ReLU())
head = nn.Linear(16, 4)
body.requires_grad_(False)
optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()

for epoch in range(3):
    if epoch == 1:
        body.requires_grad_(True)
        optimizer.add_param_group({"params": body.parameters(), "lr": 0.01})
    for _ in range(3):
        x = torch.randn(16, 8)
        loss = criterion(head(body(x)), x[:, :4].argmax(dim=1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: {loss.item():.4f}")
