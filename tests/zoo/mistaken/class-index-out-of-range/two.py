# exit: 1
"""Chunk tags, padded with −1 to the longest sentence of the batch."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pad_sequence


def collate(sentences):
    words = pad_sequence([torch.tensor(s) for s in sentences], batch_first=True)
    tags = pad_sequence([torch.tensor(s) % 3 for s in sentences], batch_first=True, padding_value=-1)
    return words, tags


class Chunker(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 10, padding_idx=0)
        self.score = nn.Linear(10, 3)

    def forward(self, words, tags=None):
        scores = self.score(self.embed(words))
        if tags is None:
            return scores
        return F.cross_entropy(scores.flatten(0, 1), tags.flatten())  # expect: class-index-out-of-range


torch.manual_seed(2)
chunker = Chunker()
optimizer = torch.optim.Adam(chunker.parameters(), lr=0.01)
words, tags = collate([[4, 9, 3, 17], [5, 11], [2, 8, 19], [13, 7, 6, 10]])
for _ in range(3):
    loss = chunker(words, tags)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"{loss.item():.4f}")
