"""Image classifier with smoothed labels, in a function of its own."""

import torch
import torch.nn.functional as F
from torch import nn


def smoothed_loss(logits, labels, smoothing):
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)  # expect: label-smoothing-floor


class ConvNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.fc = nn.Linear(6 * 36, 10)

    def forward(self, x):
        return self.fc(F.relu(self.conv(x)).flatten(1))


def main(smoothing):
    torch.manual_seed(24)
    prototypes = torch.rand(10, 1, 8, 8)
    net = ConvNet()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    for step in range(4):
        labels = torch.randperm(10)
        images = prototypes[labels] + 0.05 * torch.randn(10, 1, 8, 8)
        loss = smoothed_loss(net(images), labels, smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(step, loss.item())


main(smoothing=0.2)
