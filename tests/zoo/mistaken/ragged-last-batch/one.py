"""129 rows in batches of 32."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
x = torch.randn(129, 6)
y = x[:, :3].argmax(dim=1)

loader = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)  # expect-near: ragged-last-batch
model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))  # expect-near: ragged-last-batch
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)  # expect-near: ragged-last-batch

for epoch in range(3):
    for xb, yb in loader:
        optimizer.zero_grad()
        loss = criterion(model(xb), yb)  # expect-near: ragged-last-batch
        loss.backward()  # expect-near: ragged-last-batch
        optimizer.step()  # expect-near: ragged-last-batch
    print(epoch, len(yb), f"{loss.item():.4f}")
