"""Two groups of parameters, a schedule with warm-up, and a checkpoint that is loaded again."""

import io
import math

import torch
import torch.nn.functional as F
from torch import nn


def build():
    model = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 4))
    decay = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min(1, (s + 1) / 3) * math.cos(s / 10))
    return model, optimizer, schedule


def train(model, optimizer, schedule, steps):
    for _ in range(steps):
        x = torch.randn(24, 8)
        loss = F.cross_entropy(model(x), x[:, :4].argmax(dim=1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    print(f"{loss.item():.4f}")


torch.manual_seed(47)
first = build()
train(*first, steps=4)
file = io.BytesIO()
torch.save([part.state_dict() for part in first], file)
file.seek(0)
second = build()
for part, state in zip(second, torch.load(file), strict=True):
    part.load_state_dict(state)
train(*second, steps=4)
