"""Predict one of five tags for each of five words."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(6)
vocab_size, num_tags, length = 30, 5, 5

embedding = nn.Embedding(vocab_size, 16)
tag_layer = nn.Linear(16, num_tags)
params = list(embedding.parameters()) + list(tag_layer.parameters())
optimizer = torch.optim.Adam(params, lr=0.01)

for step in range(5):
    words = torch.randint(0, vocab_size, (8, length))
    tags = (words * 7 + 3) % num_tags
    optimizer.zero_grad()
    logits = tag_layer(embedding(words))
    loss = F.cross_entropy(logits.transpose(1, 2), tags)
    loss.backward()
    optimizer.step()
    print(f"step {step} loss {loss.item():.4f}")
