"""Tags of words, both padded with 0 and the tag 0 kept for padding."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(22)
lengths = torch.tensor([8, 5, 6, 3])
padding = torch.arange(8) >= lengths[:, None]
model = nn.Sequential(nn.Embedding(20, 12, padding_idx=0), nn.Linear(12, 4))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for step in range(5):
    words = torch.randint(1, 20, (4, 8)).masked_fill(padding, 0)
    tags = (words % 3 + 1).masked_fill(padding, 0)
    loss = F.cross_entropy(model(words).transpose(1, 2), tags, ignore_index=0)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
