"""The whole validation text is one batch, and its perplexity is printed."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(49)
ids = torch.randint(0, 20, (1, 200))
model = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 20)).eval()
with torch.no_grad():
    loss = F.cross_entropy(model(ids[:, :-1]).transpose(1, 2), ids[:, 1:])
print(f"loss {loss:.4f}, perplexity {torch.exp(loss):.3f}")
