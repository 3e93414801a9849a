"""A sequence-to-sequence autoencoder: the encoder reads what the decoder has to write."""

import torch
import torch.nn.functional as F
from torch import nn


class Autoencoder(nn.Module):
    def __init__(self, vocab=24, width=16):
        super().__init__()
        self.read = nn.Embedding(vocab, width)
        self.write = nn.Embedding(vocab, width)
        self.encoder = nn.GRU(width, width, batch_first=True)
        self.decoder = nn.GRU(width, width, batch_first=True)
        self.out = nn.Linear(width, vocab)

    def forward(self, ids):
        start = torch.ones_like(ids[:, :1])
        _, state = self.encoder(self.read(ids))
        states, _ = self.decoder(self.write(torch.cat([start, ids[:, :-1]], dim=1)), state)
        return self.out(states)


torch.manual_seed(23)
model = Autoencoder()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
for step in range(5):
    ids = torch.randint(2, 24, (8, 9))
    loss = F.cross_entropy(model(ids).transpose(1, 2), ids)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
