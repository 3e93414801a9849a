"""Padding with 0 at the tails alone, ignored; every sentence ends with 1, which counts."""

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

PAD, END = 0, 1
torch.manual_seed(21)
sentences = [torch.cat([torch.randint(2, 30, (n,)), torch.tensor([END])]) for n in (9, 4, 7, 3, 8, 5)]
ids = pad_sequence(sentences, batch_first=True, padding_value=PAD)

embed, rnn, out = nn.Embedding(30, 16, padding_idx=PAD), nn.GRU(16, 16, batch_first=True), nn.Linear(16, 30)
model = nn.ModuleDict({"embed": embed, "rnn": rnn, "out": out})
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
criterion = nn.CrossEntropyLoss(ignore_index=PAD)
for epoch in range(5):
    logits = out(rnn(embed(ids[:, :-1]))[0])
    loss = criterion(logits.reshape(-1, 30), ids[:, 1:].reshape(-1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(epoch, f"{loss.item():.4f}")
