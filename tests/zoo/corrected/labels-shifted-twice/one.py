"""Next-token prediction on a stream of numbers."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
stream = torch.randint(0, 40, (400,))


def get_batch(batch_size=6, block=14):
    starts = torch.randint(0, len(stream) - block - 1, (batch_size,)).tolist()
    x = torch.stack([stream[s : s + block] for s in starts])
    y = torch.stack([stream[s + 1 : s + block + 1] for s in starts])
    return x, y


model = nn.Sequential(nn.Embedding(40, 20), nn.Linear(20, 40))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)

for step in range(5):
    x, y = get_batch()
    logits = model(x)
    loss = F.cross_entropy(logits.view(-1, 40), y.view(-1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
