"""Distil a wide network into a narrow one by its soft labels."""

import torch
import torch.nn.functional as F
from torch import nn


def mlp(width, outputs=5):
    return nn.Sequential(nn.Linear(8, width), nn.GELU(), nn.Linear(width, outputs))


class Distiller:
    def __init__(self, teacher, student, lr):
        self.teacher = teacher.eval().requires_grad_(False)
        self.student = student
        self.optimizer = torch.optim.AdamW(student.parameters(), lr=lr)

    def step(self, batch):
        soft_labels = self.teacher(batch)
        loss = F.cross_entropy(self.student(batch), soft_labels)  # expect: soft-target-not-distribution
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


torch.manual_seed(20)
distiller = Distiller(mlp(64), mlp(8), lr=0.01)
for _ in range(4):
    print(f"{distiller.step(torch.randn(16, 8)):+.4f}")
