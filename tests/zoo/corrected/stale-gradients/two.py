"""Trainer with callbacks; the gradients are cleared when an epoch begins."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Callback:
    def epoch_begins(self, trainer):
        pass  # nothing yet

    def batch_begins(self, trainer):
        trainer.optimizer.zero_grad()


class Trainer:
    def __init__(self, model, callback):
        self.model, self.callback = model, callback
        self.optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def fit(self, loader, epochs):
        for epoch in range(epochs):
            self.callback.epoch_begins(self)
            for x, y in loader:
                self.callback.batch_begins(self)
                loss = F.cross_entropy(self.model(x), y)
                loss.backward()
                self.optimizer.step()
            print(f"epoch {epoch}: {loss.item():.4f}")


torch.manual_seed(9)
inputs = torch.randn(48, 5)
loader = DataLoader(TensorDataset(inputs, inputs.argmax(dim=1)), batch_size=12)
Trainer(nn.Sequential(nn.Linear(5, 10), nn.ReLU(), nn.Linear(10, 5)), Callback()).fit(loader, epochs=2)
