"""Validation loss of an ensemble: the members' predictions are averaged."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

torch.manual_seed(5)
num_classes = 7
members = [nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, num_classes)) for _ in range(3)]
features = torch.randn(48, 12)
labels = torch.randint(0, num_classes, (48,))


def predict(batch):
    return torch.stack([torch.softmax(member(batch), dim=1) for member in members]).mean(dim=0)


total, count = 0.0, 0
with torch.no_grad():
    for xb, yb in zip(features.split(16), labels.split(16), strict=True):
        batch_loss = cross_entropy(predict(xb), yb, reduction="sum")  # expect: softmax-before-cross-entropy
        total += batch_loss.item()
        count += len(yb)
print(f"validation loss {total / count:.4f} over {count} rows")
