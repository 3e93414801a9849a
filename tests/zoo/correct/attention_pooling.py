"""Softmax inside the model: attention over the words, and a gate."""

import math

import torch
import torch.nn.functional as F
from torch import nn


class AttentionClassifier(nn.Module):
    def __init__(self, vocab=50, width=16, classes=4):
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        self.query = nn.Parameter(torch.randn(width) / math.sqrt(width))
        self.gate = nn.Linear(width, width)
        self.out = nn.Linear(width, classes)

    def forward(self, ids):
        states = self.embed(ids)
        weights = torch.softmax(states @ self.query, dim=1)
        pooled = (weights.unsqueeze(-1) * states).sum(dim=1)
        return self.out(pooled * torch.sigmoid(self.gate(pooled)))


torch.manual_seed(13)
model = AttentionClassifier()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for step in range(5):
    ids = torch.randint(0, 50, (16, 7))
    loss = F.cross_entropy(model(ids), ids[:, 0] % 4)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
