"""Word vectors with negative sampling: log-sigmoids of products."""

import torch
import torch.nn.functional as F
from torch import nn


class SkipGram(nn.Module):
    def __init__(self, vocab, width):
        super().__init__()
        self.centre = nn.Embedding(vocab, width, sparse=True)
        self.context = nn.Embedding(vocab, width, sparse=True)
        nn.init.uniform_(self.centre.weight, -0.5 / width, 0.5 / width)
        nn.init.zeros_(self.context.weight)

    def forward(self, centre, context, negatives):
        u = self.centre(centre)
        positive = (u * self.context(context)).sum(dim=-1)
        negative = torch.einsum("bw,bkw->bk", u, self.context(negatives))
        return -(F.logsigmoid(positive) + F.logsigmoid(-negative).sum(dim=1)).mean()


torch.manual_seed(41)
model = SkipGram(50, 16)
optimizer = torch.optim.SparseAdam(list(model.parameters()), lr=0.05)
for step in range(8):
    centre = torch.randint(0, 50, (32,))
    loss = model(centre, (centre + 1) % 50, torch.randint(0, 50, (32, 5)))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
