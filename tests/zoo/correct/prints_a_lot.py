"""Thousands of lines, on both streams, some without an end."""

import sys

import torch
from torch import nn

torch.manual_seed(58)
model = nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()
for step in range(20):
    x = torch.randn(8, 4)
    loss = criterion(model(x), (x[:, 0] > 0).long())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    for i in range(100):
        print(f"step {step} line {i} loss {loss.item():.6f} — ünïcödé ✓")
    print(f"progress {step}", end="\r", file=sys.stderr)
    sys.stdout.write(f"{step}…")
sys.stdout.buffer.flush()
sys.stdout.flush()
sys.stdout.buffer.write(b"\x00\xff raw bytes, no newline at the end")
