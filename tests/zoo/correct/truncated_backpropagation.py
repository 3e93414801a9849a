"""A long text in pieces: the hidden state is carried over, detached."""

import torch
from torch import nn

torch.manual_seed(65)
text = torch.randint(0, 16, (4, 61))
embed, rnn, out = nn.Embedding(16, 12), nn.LSTM(12, 12, batch_first=True), nn.Linear(12, 16)
model = nn.ModuleList([embed, rnn, out])
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
criterion = nn.CrossEntropyLoss()
state = None
for start in range(0, 60, 10):
    x, y = text[:, start : start + 10], text[:, start + 1 : start + 11]
    if state is not None:
        state = tuple(s.detach() for s in state)
    hidden, state = rnn(embed(x), state)
    loss = criterion(out(hidden).view(-1, 16), y.reshape(-1))
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.25)
    optimizer.step()
    print(start, f"{loss.item():.4f}")
