"""Train a small language model, then sample from it with a temperature."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(69)
TEXT = "she sells sea shells by the sea shore and the shells she sells are sea shells for sure. "
letters = sorted(set(TEXT))
data = torch.tensor([letters.index(c) for c in TEXT])
model = nn.Sequential(nn.Embedding(len(letters), 16), nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, len(letters)))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
for step in range(10):
    starts = torch.randint(0, len(data) - 13, (8,)).tolist()
    batch = torch.stack([data[s : s + 13] for s in starts])
    logits = model(batch[:, :-1])
    loss = F.cross_entropy(logits.reshape(-1, len(letters)), batch[:, 1:].reshape(-1))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
print(f"loss {loss.item():.4f}")
ids = data[:1]
with torch.inference_mode():
    for _ in range(30):
        probabilities = F.softmax(model(ids[-1:]) / 0.8, dim=-1)
        ids = torch.cat([ids, torch.multinomial(probabilities[0], 1)])
print(repr("".join(letters[i] for i in ids)))
