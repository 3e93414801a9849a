"""Mixed precision on the CPU: the forward pass runs under autocast."""

import torch
import torch.nn.functional as F
from torch import nn


class Encoder(nn.Module):
    def __init__(self, vocab: int = 64, width: int = 32):
        super().__init__()
        self.embedding = nn.Embedding(vocab, width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, vocab))

    def forward(self, ids):
        return self.mlp(self.embedding(ids))


def training_step(model, ids, targets):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(ids)
        log_probs = F.log_softmax(logits.double(), dim=-1)
        return F.nll_loss(log_probs.flatten(0, 1), targets.flatten())


if __name__ == "__main__":
    torch.manual_seed(0)
    model = Encoder()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(3):
        ids = torch.randint(64, (4, 12))
        targets = (ids * 3 + 1) % 64
        loss = training_step(model, ids, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"{loss.item():.5f}")
