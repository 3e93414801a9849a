"""Mark names in sentences: 0 outside, 1 begins a name, 2 goes on with it."""

import torch
from torch import nn

torch.manual_seed(3)
VOCAB = 32

model = nn.Sequential(nn.Embedding(VOCAB, 16), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
criterion = nn.CrossEntropyLoss(ignore_index=0)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

for step in range(5):
    words = torch.randint(0, VOCAB, (6, 10))
    tags = torch.where(words < 16, 0, 1 + words % 2)
    optimizer.zero_grad()
    scores = model(words)
    loss = criterion(scores.reshape(-1, 3), tags.reshape(-1))  # expect: ignore-index-suspect
    loss.backward()
    optimizer.step()
    print(f"step {step}, loss {loss.item():.4f}")
