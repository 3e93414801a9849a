"""A recurrent decoder: the losses of the steps are summed, then one backward."""

import random

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(64)
random.seed(0)
VOCAB, START = 20, 0
embed, cell, out = nn.Embedding(VOCAB, 16), nn.GRUCell(16, 16), nn.Linear(16, VOCAB)
optimizer = torch.optim.Adam([*embed.parameters(), *cell.parameters(), *out.parameters()], lr=0.01)
for step in range(5):
    target = torch.randint(1, VOCAB, (6, 7))
    state = torch.zeros(6, 16)
    token = torch.full((6,), START)
    loss = 0
    for t in range(7):
        state = cell(embed(token), state)
        logits = out(state)
        loss += F.cross_entropy(logits, target[:, t])
        token = target[:, t] if random.random() < 0.7 else logits.argmax(dim=1)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item() / 7:.4f}")
