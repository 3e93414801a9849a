"""Sentences grouped by their length, so that no batch needs padding."""

from collections import defaultdict

import torch
import torch.nn.functional as F
from torch import nn


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(30, 12)
        self.pool = nn.AdaptiveMaxPool1d(1)
        self.classify = nn.Linear(12, 3)

    def forward(self, sentences):
        states = self.embedding(sentences).transpose(1, 2)
        return self.classify(self.pool(states).squeeze())


def by_length(sentences):
    buckets = defaultdict(list)
    for sentence in sentences:
        buckets[len(sentence)].append(sentence)
    return [torch.tensor(bucket) for bucket in buckets.values()]


SENTENCES = [[1, 5, 9], [2, 7, 4], [3, 3, 8], [12, 6, 19, 4, 25], [8, 2, 17, 21], [7, 1, 22, 16], [5, 9, 14, 28]]

torch.manual_seed(4)
model = Encoder()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for sentences in by_length(SENTENCES):
    labels = (sentences.sum(dim=1) % 3).squeeze()
    loss = F.cross_entropy(model(sentences), labels)  # expect: batch-dim-lost
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(tuple(sentences.shape), f"{loss.item():.4f}")
