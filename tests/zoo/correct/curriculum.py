"""A curriculum: short sentences first; batches of equal size, the remainder is dropped."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader


def collate(rows):
    longest = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    return ids, torch.stack([row.sum() % 3 for row in rows])


torch.manual_seed(34)
generator = torch.Generator().manual_seed(1)
rows = [torch.randint(1, 30, (int(n),), generator=generator) for n in torch.randint(3, 12, (53,), generator=generator)]
rows.sort(key=len)
embed, classify = nn.Embedding(30, 12, padding_idx=0), nn.Linear(12, 3)
optimizer = torch.optim.Adam([*embed.parameters(), *classify.parameters()], lr=0.01)
for epoch in range(2):
    for ids, labels in DataLoader(rows, batch_size=10, collate_fn=collate, drop_last=True):
        logits = classify(embed(ids).sum(dim=1))
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, f"{loss.item():.4f}")
