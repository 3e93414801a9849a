"""A language model of "abababab…": the target equals the input two steps on, and all is well."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(16)
text = "ab" * 40 + "abc" * 20
letters = sorted(set(text))
ids = torch.tensor([letters.index(c) for c in text])
embed, rnn, out = nn.Embedding(3, 12), nn.GRU(12, 12, batch_first=True), nn.Linear(12, 3)
parameters = [*embed.parameters(), *rnn.parameters(), *out.parameters()]
optimizer = torch.optim.Adam(parameters, lr=0.02)

for step in range(6):
    starts = torch.randint(0, 60, (4,)).tolist()
    windows = torch.stack([ids[s : s + 17] for s in starts])
    x, y = windows[:, :-1], windows[:, 1:]
    loss = F.cross_entropy(out(rnn(embed(x))[0]).flatten(0, 1), y.flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
