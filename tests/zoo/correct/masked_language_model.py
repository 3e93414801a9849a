"""Masked language modelling: the target is the input, and only masked places count."""

import torch
import torch.nn.functional as F
from torch import nn

MASK, VOCAB = 0, 40
torch.manual_seed(24)
embed = nn.Embedding(VOCAB, 16)
layer = nn.TransformerEncoderLayer(16, nhead=2, dim_feedforward=32, dropout=0.0, batch_first=True)
out = nn.Linear(16, VOCAB)
optimizer = torch.optim.AdamW([*embed.parameters(), *layer.parameters(), *out.parameters()], lr=2e-3)
for step in range(4):
    ids = torch.randint(1, VOCAB, (6, 12))
    masked = torch.rand(6, 12) < 0.25
    masked[:, 0] = True
    logits = out(layer(embed(ids.masked_fill(masked, MASK))))
    labels = ids.masked_fill(~masked, -100)
    loss = F.cross_entropy(logits.view(-1, VOCAB), labels.view(-1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
