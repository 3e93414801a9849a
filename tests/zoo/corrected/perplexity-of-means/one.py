"""Validation perplexity of a bigram model, averaged over the batches."""

import torch
from torch import nn

torch.manual_seed(0)
text = torch.randint(0, 20, (241,))
inputs, targets = text[:-1], text[1:]
model = nn.Embedding(20, 20)
nn.init.normal_(model.weight, std=0.5)
criterion = nn.CrossEntropyLoss()

total = torch.zeros(())
batches = 0
with torch.no_grad():
    for start in range(0, 240, 60):
        loss = criterion(model(inputs[start : start + 60]), targets[start : start + 60])
        total += loss * 60
        batches += 1
print(f"perplexity {torch.exp(total / (60 * batches)).item():.3f}")
