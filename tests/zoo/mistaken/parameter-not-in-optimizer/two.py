"""Fine-tuning: the head is replaced for a new number of classes."""

import torch
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.features = nn.Sequential(nn.Linear(7, 14), nn.Tanh())
        self.head = nn.Linear(14, classes)

    def forward(self, x):
        return self.head(self.features(x))


def fine_tune(model, num_classes, steps):
    opt = torch.optim.AdamW(model.parameters())  # expect-near: parameter-not-in-optimizer, parameter-unreached
    model.head = nn.Linear(14, num_classes)  # expect-near: parameter-not-in-optimizer
    for _ in range(steps):
        x = torch.randn(20, 7)
        labels = x[:, :num_classes].argmax(dim=1)
        loss = F.cross_entropy(model(x), labels)
        opt.zero_grad()
        loss.backward()  # expect-near: parameter-not-in-optimizer, parameter-unreached
        opt.step()  # expect-near: parameter-not-in-optimizer, parameter-unreached
        print(f"{loss.item():.4f}")


if __name__ == "__main__":
    torch.manual_seed(12)
    pretrained = Net(classes=100)  # expect-near: parameter-not-in-optimizer, parameter-unreached
    fine_tune(pretrained, num_classes=5, steps=4)
