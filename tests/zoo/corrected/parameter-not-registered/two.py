"""Two tasks with a head each and a learned temperature."""

import torch
from torch import nn


class MultiTask(nn.Module):
    def __init__(self, tasks):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, 12), nn.ReLU())
        self.heads = nn.ModuleDict({name: nn.Linear(12, size) for name, size in tasks.items()})
        self.temperature = nn.Parameter(torch.ones(1))

    def forward(self, x):
        features = self.trunk(x)
        return {name: head(features) / self.temperature for name, head in self.heads.items()}


class Trainer:
    def __init__(self, model):
        self.model = model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        self.criterion = nn.CrossEntropyLoss()

    def step(self, x, targets):
        outputs = self.model(x)
        loss = sum(self.criterion(outputs[name], target) for name, target in targets.items())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


if __name__ == "__main__":
    torch.manual_seed(1)
    trainer = Trainer(MultiTask({"sign": 2, "largest": 6}))
    for _ in range(4):
        x = torch.randn(16, 6)
        print(f"{trainer.step(x, {'sign': (x[:, 0] > 0).long(), 'largest': x.argmax(1)}):.4f}")
