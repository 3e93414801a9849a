"""A language model with tied weights, initialised for it, shifted once."""

import torch
import torch.nn.functional as F
from torch import nn


class TiedModel(nn.Module):
    def __init__(self, vocab=60, width=24):
        super().__init__()
        self.embedding = nn.Embedding(vocab, width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.rnn = nn.LSTM(width, width, batch_first=True)
        self.decoder = nn.Linear(width, vocab)
        self.decoder.weight = self.embedding.weight

    def forward(self, ids):
        return self.decoder(self.rnn(self.embedding(ids))[0])


torch.manual_seed(6)
model = TiedModel()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
for step in range(5):
    ids = torch.randint(0, 60, (6, 13))
    logits = model(ids[:, :-1])
    loss = F.cross_entropy(logits.reshape(-1, 60), ids[:, 1:].reshape(-1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
