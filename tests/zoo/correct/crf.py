"""A linear-chain conditional random field: score of the path minus a log-sum-exp over all paths."""

import torch
from torch import nn


class CRF(nn.Module):
    def __init__(self, tags):
        super().__init__()
        self.transitions = nn.Parameter(torch.zeros(tags, tags))

    def forward(self, emissions, tags):
        steps = emissions.shape[1]
        rows = torch.arange(len(tags))
        score = emissions[rows, 0, tags[:, 0]]
        alpha = emissions[:, 0]
        for t in range(1, steps):
            score = score + self.transitions[tags[:, t - 1], tags[:, t]] + emissions[rows, t, tags[:, t]]
            alpha = torch.logsumexp(alpha[:, :, None] + self.transitions, dim=1) + emissions[:, t]
        return (torch.logsumexp(alpha, dim=1) - score).mean()


torch.manual_seed(37)
emit = nn.Sequential(nn.Embedding(20, 10), nn.Linear(10, 4))
crf = CRF(4)
optimizer = torch.optim.Adam([*emit.parameters(), *crf.parameters()], lr=0.02)
for step in range(4):
    words = torch.randint(0, 20, (6, 5))
    loss = crf(emit(words), words % 4)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
