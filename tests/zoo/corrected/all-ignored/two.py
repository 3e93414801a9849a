"""Rare events only: the frequent class gets weight zero."""

import torch
from torch import nn


class EventDetector(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
        self.criterion = nn.CrossEntropyLoss(weight=torch.tensor([0.0, 1.0, 1.0]))

    def forward(self, x, events):
        return self.criterion(self.layers(x), events)


def stream():
    generator = torch.Generator().manual_seed(5)
    for events in ([0, 1, 0, 2], [2, 0, 0, 1], [0, 0, 0, 0]):
        if any(events):
            yield torch.randn(4, 6, generator=generator), torch.tensor(events)


torch.manual_seed(0)
detector = EventDetector()
optimizer = torch.optim.SGD(detector.parameters(), lr=0.05)
for x, events in stream():
    loss = detector(x, events)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print("loss", loss.item())
