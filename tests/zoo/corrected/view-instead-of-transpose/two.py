"""Pixel-wise classification: the scores are flattened before the loss."""

import torch
import torch.nn.functional as F
from torch import nn


class PixelNet(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.num_classes = num_classes
        self.conv1 = nn.Conv2d(1, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, num_classes, 3, padding=1)

    def forward(self, x):
        return self.conv2(F.leaky_relu(self.conv1(x)))

    def loss(self, x, mask):
        scores = self(x)
        scores = scores.permute(0, 2, 3, 1).contiguous().view(-1, self.num_classes)
        return F.cross_entropy(scores, mask.view(-1))


def batches(count):
    generator = torch.Generator().manual_seed(99)
    for _ in range(count):
        image = torch.randn(2, 1, 6, 6, generator=generator)
        mask = torch.bucketize(image[:, 0], torch.tensor([-0.5, 0.5]))
        yield image, mask


torch.manual_seed(0)
net = PixelNet(num_classes=3)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for image, mask in batches(4):
    optimizer.zero_grad()
    loss = net.loss(image, mask)
    loss.backward()
    optimizer.step()
    print(f"pixel loss {loss.item():.4f}")
