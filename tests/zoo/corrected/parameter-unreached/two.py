"""A classifier that reads the codes of a small discrete bottleneck."""

import torch
import torch.nn.functional as F
from torch import nn


class DiscreteBottleneck(nn.Module):
    def __init__(self, inputs=10, codes=16, classes=3):
        super().__init__()
        self.assign = nn.Linear(inputs, codes)
        self.codebook = nn.Embedding(codes, 8)
        self.classify = nn.Linear(8, classes)

    def forward(self, x):
        weight = F.gumbel_softmax(self.assign(x), hard=True)
        return self.classify(weight @ self.codebook.weight)


class Experiment:
    def __init__(self):
        torch.manual_seed(2)
        self.model = DiscreteBottleneck()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.02)

    def run(self, steps):
        for _ in range(steps):
            x = torch.randn(40, 10)
            loss = F.cross_entropy(self.model(x), x[:, :3].argmax(dim=1))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            yield loss.item()


for value in Experiment().run(5):
    print(f"{value:.4f}")
