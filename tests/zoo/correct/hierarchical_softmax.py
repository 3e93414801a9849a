"""A softmax in two levels: the cluster, then the word in its cluster; and torch's adaptive softmax."""

import torch
import torch.nn.functional as F
from torch import nn


class TwoLevel(nn.Module):
    def __init__(self, width=12, clusters=4, words=6):
        super().__init__()
        self.words = words
        self.cluster = nn.Linear(width, clusters)
        self.word = nn.Linear(width, clusters * words)

    def forward(self, h, target):
        cluster, word = target // self.words, target % self.words
        words = self.word(h).view(len(h), -1, self.words)[torch.arange(len(h)), cluster]
        return F.cross_entropy(self.cluster(h), cluster) + F.cross_entropy(words, word)


torch.manual_seed(42)
embed = nn.Embedding(24, 12)
two_level = TwoLevel()
adaptive = nn.AdaptiveLogSoftmaxWithLoss(12, 24, cutoffs=[8, 16])
parameters = [*embed.parameters(), *two_level.parameters(), *adaptive.parameters()]
optimizer = torch.optim.Adam(parameters, lr=0.01)
for step in range(4):
    ids = torch.randint(0, 24, (30,))
    target = (5 * ids + 1) % 24
    h = embed(ids)
    loss = two_level(h, target) + adaptive(h, target).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
