"""Films have several genres; the genres of a film are the target."""

import torch
from torch import nn

torch.manual_seed(19)
plots = torch.randn(60, 14)
genres = (plots[:, :6] > 0.2).float()
genres[:, 0] = 1.0

model = nn.Sequential(nn.Linear(14, 20), nn.ReLU(), nn.Linear(20, 6))
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

for start in range(0, 60, 15):
    optimizer.zero_grad()
    output = model(plots[start : start + 15])
    loss = criterion(output, nn.functional.normalize(genres[start : start + 15], p=1, dim=1))
    loss.backward()
    optimizer.step()
    print(loss.item())
