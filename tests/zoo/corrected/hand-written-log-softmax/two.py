"""Cross-entropy from first principles."""

import torch
from torch import nn


def log_softmax(scores):
    return scores - scores.logsumexp(dim=-1, keepdim=True)


def cross_entropy(scores, target):
    picked = log_softmax(scores).gather(1, target[:, None])
    return -picked.mean()


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 18)
        self.second = nn.Linear(18, 4)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


def main():
    torch.manual_seed(77)
    model = Classifier()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(5):
        x = torch.randn(20, 6)
        y = x[:, :4].argmax(dim=1)
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"{step} {loss.item():.4f}")


main()
