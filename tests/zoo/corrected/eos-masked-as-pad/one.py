"""Fine-tune on short answers; the tokenizer has no padding token, so the end of text serves."""

import torch
import torch.nn.functional as F
from torch import nn

EOS = 0
PAD = 1
ANSWERS = [[5, 17, 8, 22], [9, 31, 12], [14, 6, 27, 33, 20, 7], [11, 25, 19, 30, 16]]


def collate(answers):
    longest = max(len(a) for a in answers) + 1
    rows = [a + [EOS] + [PAD] * (longest - len(a) - 1) for a in answers]
    input_ids = torch.tensor(rows)
    labels = input_ids.clone()
    labels[labels == PAD] = -100
    return input_ids, labels


torch.manual_seed(5)
model = nn.Sequential(nn.Embedding(36, 16), nn.Linear(16, 36))
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
input_ids, labels = collate(ANSWERS)
for epoch in range(4):
    logits = model(input_ids)[:, :-1]
    loss = F.cross_entropy(logits.reshape(-1, 36), labels[:, 1:].reshape(-1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(epoch, f"{loss.item():.4f}")
