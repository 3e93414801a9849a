"""Loss scaling with gradient clipping."""

import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)  # expect-near: clip-before-unscale
scaler = torch.amp.GradScaler("cpu")

for step in range(4):
    x = torch.randn(16, 8)
    y = x[:, :3].argmax(dim=1)
    optimizer.zero_grad()
    loss = criterion(model(x), y)
    scaler.scale(loss).backward()  # expect-near: clip-before-unscale
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)  # expect-near: clip-before-unscale
    scaler.step(optimizer)  # expect-near: clip-before-unscale
    scaler.update()
    print(step, f"{loss.item():.4f}")
