"""Gradient accumulation over unequal micro-batches: sums divided by the tokens of the whole step."""

import torch
import torch.nn.functional as F
from torch import nn

PAD = 0


def micro_batches(generator):
    for _ in range(3):
        lengths = torch.randint(3, 12, (4,), generator=generator)
        ids = torch.randint(2, 50, (4, 12), generator=generator)
        ids[torch.arange(12) > lengths[:, None]] = PAD
        ids[torch.arange(4), lengths] = 1
        yield ids


torch.manual_seed(7)
model = nn.Sequential(nn.Embedding(50, 16), nn.Linear(16, 50))
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
generator = torch.Generator().manual_seed(0)
for step in range(4):
    batches = list(micro_batches(generator))
    normalizer = sum(int((ids[:, 1:] != PAD).sum()) for ids in batches)
    total = 0.0
    for ids in batches:
        logits = model(ids[:, :-1]).transpose(1, 2)
        loss = F.cross_entropy(logits, ids[:, 1:], ignore_index=PAD, reduction="sum") / normalizer
        loss.backward()
        total += loss.item()
    optimizer.step()
    optimizer.zero_grad()
    print(f"step {step}: {total:.4f} over {normalizer} tokens")
