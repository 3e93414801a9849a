"""Autocast, loss scaling and clipping in the right order."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(27)
model = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 6))
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
for step in range(5):
    x = torch.randn(16, 12)
    y = x[:, :6].argmax(dim=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(x)
    loss = F.cross_entropy(logits.float(), y)
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
    print(step, f"loss {loss.item():.4f} norm {norm.item():.3f}")
