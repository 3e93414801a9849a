# exit: 1
"""Guess how many stars (0 to 4) each of three critics gives."""

import torch
import torch.nn.functional as F
from torch import nn


class Critics(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Linear(10, 16)
        self.stars = nn.Linear(16, 3)

    def forward(self, film):
        return torch.sigmoid(self.stars(F.gelu(self.trunk(film))))


def main():
    torch.manual_seed(44)
    critics = Critics()
    optimizer = torch.optim.Adam(critics.parameters(), lr=1e-2)
    films = torch.randn(16, 10)
    stars = torch.randint(0, 5, (16, 3)).float()
    for _ in range(3):
        predicted = critics(films)
        loss = F.binary_cross_entropy(predicted, stars)  # expect: bce-target-outside-0-1
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(loss.item())


main()
