"""A history of losses for a plot that comes later."""

import torch
import torch.nn.functional as F
from torch import nn


class History(dict):
    def log(self, **values):
        for name, value in values.items():
            self.setdefault(name, []).append(value)


class LitModel(nn.Module):
    def __init__(self, history):
        super().__init__()
        self.history = history
        self.conv = nn.Conv1d(2, 8, 3, padding=1)
        self.fc = nn.Linear(8, 3)

    def forward(self, signal):
        return self.fc(F.relu(self.conv(signal)).mean(dim=-1))

    def training_step(self, batch):
        signal, label = batch
        loss = F.cross_entropy(self(signal), label)
        self.history.log(loss=loss)
        return loss


def fit(model, batches):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)  # expect-near: loss-kept-alive
    for batch in batches:
        loss = model.training_step(batch)
        optimizer.zero_grad()
        loss.backward()  # expect-near: loss-kept-alive
        optimizer.step()  # expect-near: loss-kept-alive


torch.manual_seed(18)
signals = torch.randn(20, 8, 2, 10)
history = History()
fit(LitModel(history), [(signal, (signal.mean(dim=(1, 2)) > 0).long()) for signal in signals])
print(" ".join(f"{float(value.detach()):.3f}" for value in history["loss"]))
