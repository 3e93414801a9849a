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
        code = self.assign(x).argmax(dim=-1)
        return self.classify(self.codebook(code))


class Experiment:
    def __init__(self):
        torch.manual_seed(2)
        self.model = DiscreteBottleneck()  # expect-near: parameter-unreached
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.02)  # expect-near: parameter-unreached

    def run(self, steps):
        for _ in range(steps):
            x = torch.randn(40, 10)
            loss = F.cross_entropy(self.model(x), x[:, :3].argmax(dim=1))
            self.optimizer.zero_grad()
            loss.backward()  # expect-near: parameter-unreached
            self.optimizer.step()  # expect-near: parameter-unreached
            yield loss.item()


for value in Experiment().run(5):
    print(f"{value:.4f}")
