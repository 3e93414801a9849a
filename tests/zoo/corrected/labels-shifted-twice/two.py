"""A causal language model that computes its own loss, as libraries do."""

from types import SimpleNamespace

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Windows(Dataset):
    def __init__(self, tokens, length):
        self.tokens, self.length = tokens, length

    def __len__(self):
        return (len(self.tokens) - 1) // self.length

    def __getitem__(self, index):
        start = index * self.length
        window = self.tokens[start : start + self.length + 1]
        return {"input_ids": window, "labels": window}


class CausalLM(nn.Module):
    def __init__(self, vocab, width):
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab, width)
        self.rnn = nn.LSTM(width, width, batch_first=True)
        self.lm_head = nn.Linear(width, vocab)
        self.loss_function = nn.CrossEntropyLoss()

    def forward(self, input_ids, labels=None):
        logits = self.lm_head(self.rnn(self.embed_tokens(input_ids))[0])
        loss = None
        if labels is not None:
            shifted = logits[..., :-1, :].transpose(-1, -2)
            loss = self.loss_function(shifted, labels[..., 1:])
        return SimpleNamespace(loss=loss, logits=logits)


def main():
    torch.manual_seed(3)
    tokens = torch.randint(0, 64, (4 * 3 * 15 + 1,))
    model = CausalLM(64, 16)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    for batch in DataLoader(Windows(tokens, 15), batch_size=4):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"loss {loss.item():.4f}")


if __name__ == "__main__":
    main()
