"""Prototypes: distances to class means as logits, beside a triplet loss."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(54)
embed = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 6))
optimizer = torch.optim.Adam(embed.parameters(), lr=5e-3)
triplet = nn.TripletMarginLoss(margin=0.5)
centres = torch.randn(5, 10)
for episode in range(5):
    support = centres[:, None] + 0.3 * torch.randn(5, 4, 10)
    query_labels = torch.arange(15) % 5
    query = centres[query_labels] + 0.3 * torch.randn(15, 10)
    prototypes = embed(support).mean(dim=1)
    logits = -torch.cdist(embed(query), prototypes).square()
    loss = F.cross_entropy(logits, query_labels)
    loss = loss + 0.1 * triplet(embed(query), prototypes[query_labels], prototypes[(query_labels + 1) % 5])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(episode, f"{loss.item():.4f}")
