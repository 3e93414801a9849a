"""Language model on documents of different lengths, four micro-batches per update."""

import torch
import torch.nn.functional as F
from torch import nn

PAD, ACCUMULATE = 0, 4


class LanguageModel(nn.Module):
    def __init__(self, vocab=40, width=20):
        super().__init__()
        self.embed = nn.Embedding(vocab, width, padding_idx=PAD)
        self.rnn = nn.GRU(width, width, batch_first=True)
        self.out = nn.Linear(width, vocab)

    def forward(self, ids):
        return self.out(self.rnn(self.embed(ids))[0])


def documents(count, generator):
    for _ in range(count):
        lengths = torch.randint(4, 14, (3,), generator=generator)
        ids = torch.randint(2, 40, (3, 14), generator=generator)
        ids[torch.arange(14) >= lengths[:, None]] = PAD
        ids[torch.arange(3), lengths - 1] = 1
        yield ids


def train(model, batches):
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    optimizer.zero_grad()
    batches = list(batches)
    for i in range(0, len(batches), ACCUMULATE):
        group = batches[i : i + ACCUMULATE]
        tokens = sum((ids[:, 1:] != PAD).sum().item() for ids in group)
        for ids in group:
            logits = model(ids[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=PAD, reduction="sum")
            (loss / tokens).backward()
        optimizer.step()
        optimizer.zero_grad()
        print(f"batch {i}: {loss.item() / tokens:.4f}")


torch.manual_seed(4)
train(LanguageModel(), documents(8, torch.Generator().manual_seed(8)))
