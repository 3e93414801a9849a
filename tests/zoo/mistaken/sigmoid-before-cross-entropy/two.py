"""Segment small images into four classes; the network computes in double precision."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SegmentationNet(nn.Module):
    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, kernel_size=3, padding=1)
        self.head = nn.Conv2d(8, classes, kernel_size=1)

    def forward(self, image: Tensor) -> Tensor:
        return torch.sigmoid(self.head(F.relu(self.body(image))))


def segmentation_loss(scores: Tensor, mask: Tensor) -> Tensor:
    flat = scores.permute(0, 2, 3, 1).reshape(-1, scores.shape[1])
    return F.cross_entropy(flat, mask.reshape(-1))  # expect: sigmoid-before-cross-entropy


def main() -> None:
    torch.manual_seed(11)
    net = SegmentationNet().double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for step in range(4):
        image = torch.randn(2, 3, 8, 8, dtype=torch.float64)
        mask = (image[:, 0] > 0).long() + 2 * (image[:, 1] > 0).long()
        optimizer.zero_grad()
        loss = segmentation_loss(net(image), mask)
        loss.backward()
        optimizer.step()
        print(f"{step}: {loss:.4f}")


main()
