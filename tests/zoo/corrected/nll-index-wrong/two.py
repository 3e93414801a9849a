"""A bigram model of one word at a time."""

import torch
import torch.nn as nn

WORDS = ["banana", "cabana", "bandana", "canada", "panama"]
LETTERS = ".abcdmnp"


class Bigram(nn.Module):
    def __init__(self, vocab):
        super().__init__()
        self.table = nn.Parameter(0.01 * torch.randn(vocab, vocab, generator=torch.Generator().manual_seed(0)))

    def forward(self, ids):
        return self.table[ids]

    def nll(self, ids):
        lp = self(ids[:-1]).log_softmax(-1)
        return -lp[range(len(ids) - 1), ids[1:]].mean()


model = Bigram(len(LETTERS))
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
for word in WORDS:
    ids = torch.tensor([LETTERS.index(c) for c in f".{word}."])
    loss = model.nll(ids)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(word, round(loss.item(), 4))
