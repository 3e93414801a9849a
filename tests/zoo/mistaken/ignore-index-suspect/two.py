"""Translate toy sentences with an encoder and a decoder; sentences end with 2 and are padded with 0."""

import torch
import torch.nn.functional as F
from torch import nn

PAD, START, END = 0, 1, 2


class Seq2Seq(nn.Module):
    def __init__(self, source_vocab, target_vocab, width=20):
        super().__init__()
        self.source = nn.Embedding(source_vocab, width, padding_idx=PAD)
        self.target = nn.Embedding(target_vocab, width, padding_idx=PAD)
        self.encoder = nn.GRU(width, width, batch_first=True)
        self.decoder = nn.GRU(width, width, batch_first=True)
        self.output = nn.Linear(width, target_vocab)

    def forward(self, source, target):
        _, state = self.encoder(self.source(source))
        states, _ = self.decoder(self.target(target), state)
        return self.output(states)


def sentences(generator, rows=6, longest=9):
    source = torch.randint(3, 30, (rows, longest), generator=generator)
    target = torch.full((rows, longest + 2), PAD)
    target[:, 0] = START
    for row, length in enumerate([9, 4, 3, 5, 4, 6][:rows]):
        source[row, length:] = PAD
        target[row, 1 : length + 1] = (source[row, :length] * 5 + 1) % 27 + 3
        target[row, length + 1] = END
    return source, target


def train(model, steps):
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    for _ in range(steps):
        source, target = sentences(generator)
        logits = model(source, target[:, :-1])
        loss = F.cross_entropy(logits.transpose(1, 2), target[:, 1:])  # expect: ignore-index-suspect
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"{loss.item():.3f}")


torch.manual_seed(0)
train(Seq2Seq(30, 30), steps=4)
