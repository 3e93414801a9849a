"""A part-of-speech tagger on made-up sentences, with masking of the padding."""

import torch
import torch.nn.functional as F
from torch import nn


class Tagger(nn.Module):
    def __init__(self, vocab_size=40, num_tags=6, width=24):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width, padding_idx=0)
        self.encoder = nn.GRU(width, width, batch_first=True, bidirectional=True)
        self.classifier = nn.Linear(2 * width, num_tags)

    def forward(self, tokens):
        states, _ = self.encoder(self.embedding(tokens))
        return F.softmax(self.classifier(states), dim=-1)


class Trainer:
    def __init__(self, model, lr=1e-2):
        self.model = model
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=lr)

    def compute_loss(self, batch):
        scores = self.model(batch["tokens"])
        keep = batch["tokens"] != 0
        kept, tags = scores[keep].view(-1, scores.size(-1)), batch["tags"][keep]
        return F.cross_entropy(kept, tags)  # expect: softmax-before-cross-entropy

    def fit(self, batches):
        for step, batch in enumerate(batches):
            loss = self.compute_loss(batch)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            print("step", step, "loss", round(loss.item(), 4))


def make_batch(generator):
    tokens = torch.randint(1, 40, (4, 9), generator=generator)
    lengths = torch.tensor([9, 7, 6, 8])
    tokens[torch.arange(9)[None, :] >= lengths[:, None]] = 0
    return {"tokens": tokens, "tags": tokens % 6}


if __name__ == "__main__":
    torch.manual_seed(1)
    generator = torch.Generator().manual_seed(2)
    Trainer(Tagger()).fit([make_batch(generator) for _ in range(4)])
