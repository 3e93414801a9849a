"""Contrastive learning: an N × N matrix of similarities, the diagonal is the target."""

import torch
import torch.nn.functional as F
from torch import nn


def info_nce(left, right, temperature):
    left, right = F.normalize(left, dim=1), F.normalize(right, dim=1)
    logits = left @ right.T / temperature
    target = torch.arange(len(left))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


torch.manual_seed(35)
images, captions = nn.Linear(16, 8), nn.Linear(12, 8)
log_temperature = nn.Parameter(torch.tensor(-1.0))
optimizer = torch.optim.Adam([*images.parameters(), *captions.parameters(), log_temperature], lr=0.01)
for step in range(5):
    latent = torch.randn(16, 12)
    image = torch.cat([latent, torch.randn(16, 4)], dim=1)
    loss = info_nce(images(image), captions(latent), log_temperature.exp())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
