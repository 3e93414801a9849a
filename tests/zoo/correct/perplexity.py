"""Perplexity as it should be: exp of the mean over all tokens of all batches."""

import math

import torch
import torch.nn.functional as F
from torch import nn

PAD = 0


@torch.no_grad()
def perplexity(model, batches):
    total, count = 0.0, 0
    for ids in batches:
        logits = model(ids[:, :-1])
        targets = ids[:, 1:]
        total += F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=PAD, reduction="sum").item()
        count += int((targets != PAD).sum())
    return math.exp(total / count)


torch.manual_seed(48)
batches = []
for _ in range(5):
    lengths = torch.randint(3, 10, (4,))
    ids = torch.randint(2, 30, (4, 10)).masked_fill(torch.arange(10) > lengths[:, None], PAD)
    ids[torch.arange(4), lengths] = 1
    batches.append(ids)
model = nn.Sequential(nn.Embedding(30, 12), nn.Linear(12, 30))
print(f"perplexity {perplexity(model, batches):.3f}")
