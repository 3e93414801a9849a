"""Learn to spell numbers: every word ends with the end token, rows are padded."""

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

WORDS = "one two three four five six seven eight nine ten eleven twelve".split()


class Vocabulary:
    def __init__(self, words):
        self.characters = ["<bos>", "<eos>", "<pad>", *sorted(set("".join(words)))]
        self.bos, self.eos = 0, 1
        self.pad = 2

    def encode(self, word):
        return torch.tensor([self.bos, *(self.characters.index(c) for c in word), self.eos])


class Speller(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.embed = nn.Embedding(size, 16)
        self.rnn = nn.GRU(16, 16, batch_first=True)
        self.out = nn.Linear(16, size)

    def forward(self, ids):
        return self.out(self.rnn(self.embed(ids))[0])


torch.manual_seed(0)
vocabulary = Vocabulary(WORDS)
ids = pad_sequence([vocabulary.encode(w) for w in WORDS], batch_first=True, padding_value=vocabulary.pad)
speller = Speller(len(vocabulary.characters))
optimizer = torch.optim.Adam(speller.parameters(), lr=0.01)
criterion = nn.CrossEntropyLoss(ignore_index=vocabulary.pad)
for _ in range(4):
    optimizer.zero_grad()
    loss = criterion(speller(ids[:, :-1]).transpose(1, 2), ids[:, 1:])
    loss.backward()
    optimizer.step()
    print(f"{loss.item():.4f}")
