"""A next-character model: one training step of a tiny LSTM."""

from dataclasses import dataclass

import torch
from torch import nn

TEXT = "the cat sat on the mat and the dog sat on the log while the rain ran down the pane "


@dataclass
class Config:
    hidden: int = 20
    context: int = 10
    batch: int = 4
    lr: float = 0.01


class CharModel(nn.Module):
    def __init__(self, vocab, hidden):
        super().__init__()
        self.embed = nn.Embedding(vocab, hidden)
        self.lstm = nn.LSTM(hidden, hidden, batch_first=True)
        self.decode = nn.Linear(hidden, vocab)

    def forward(self, ids):
        return self.decode(self.lstm(self.embed(ids))[0])


def main(config=Config()):
    torch.manual_seed(0)
    letters = sorted(set(TEXT))
    ids = torch.tensor([letters.index(c) for c in TEXT])
    model = CharModel(len(letters), config.hidden)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
    loss_function = nn.CrossEntropyLoss()
    starts = torch.randint(0, len(ids) - config.context - 1, (config.batch,))
    inputs = torch.stack([ids[s : s + config.context] for s in starts])
    targets = torch.stack([ids[s + 1 : s + config.context + 1] for s in starts])
    loss = loss_function(model(inputs).permute(0, 2, 1), targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"loss {loss.item():.4f}")


main()
