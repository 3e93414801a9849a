"""Evaluation loop of a language model trainer."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(30, 12)
        self.rnn = nn.LSTM(12, 12, batch_first=True)
        self.out = nn.Linear(12, 30)

    def forward(self, ids):
        return self.out(self.rnn(self.embed(ids))[0])


class Evaluator:
    def __init__(self, model):
        self.model = model.eval()

    @torch.inference_mode()
    def perplexity(self, loader):
        values = []
        for ids in loader:
            logits = self.model(ids[:, :-1])
            loss = F.cross_entropy(logits.reshape(-1, 30), ids[:, 1:].reshape(-1))
            values.append(loss * ids[:, 1:].numel())
        return (torch.stack(values).sum() / (len(loader.dataset) * 10)).exp().item()


torch.manual_seed(1)
corpus = torch.randint(0, 30, (24, 11))
print(f"ppl = {Evaluator(Model()).perplexity(DataLoader(corpus, batch_size=6)):.3f}")
