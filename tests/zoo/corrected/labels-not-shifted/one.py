"""A character model of a nursery rhyme."""

import torch
from torch import nn

RHYME = "jack and jill went up the hill to fetch a pail of water, jack fell down and broke his crown"
letters = sorted(set(RHYME))
data = torch.tensor([letters.index(c) for c in RHYME])

torch.manual_seed(0)
embedding = nn.Embedding(len(letters), 24)
rnn = nn.GRU(24, 24, batch_first=True)
head = nn.Linear(24, len(letters))
optimizer = torch.optim.Adam([*embedding.parameters(), *rnn.parameters(), *head.parameters()], lr=0.01)
criterion = nn.CrossEntropyLoss()

for step in range(5):
    starts = torch.randint(0, len(data) - 17, (6,))
    x = torch.stack([data[s : s + 16] for s in starts])
    y = torch.stack([data[s + 1 : s + 17] for s in starts])
    logits = head(rnn(embedding(x))[0])
    loss = criterion(logits.reshape(-1, len(letters)), y.reshape(-1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"step {step}: {loss.item():.4f}")
