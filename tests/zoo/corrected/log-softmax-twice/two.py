"""Sequence classifier whose forward returns log-probabilities."""

import torch
import torch.nn.functional as F
from torch import nn


class SentimentLSTM(nn.Module):
    def __init__(self, vocab=50, dim=16, labels=3):
        super().__init__()
        self.embed = nn.Embedding(vocab, dim)
        self.lstm = nn.LSTM(dim, dim, batch_first=True)
        self.out = nn.Linear(dim, labels)

    def forward(self, ids):
        hidden = self.lstm(self.embed(ids))[1][0][-1]
        return F.log_softmax(self.out(hidden), dim=-1)


def train_step(model, optimizer, ids, labels):
    log_probs = model(ids)
    loss = F.nll_loss(log_probs, labels, reduction="sum") / labels.numel()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.item()


torch.manual_seed(4)
model = SentimentLSTM()
optimizer = torch.optim.RMSprop(model.parameters(), lr=2e-3)
for _ in range(4):
    ids = torch.randint(0, 50, (8, 6))
    print(f"{train_step(model, optimizer, ids, ids[:, 0] % 3):.4f}")
