"""Class weights from the inverse frequencies, in batches of sixteen."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def inverse_frequencies(labels, num_classes):
    counts = torch.bincount(labels, minlength=num_classes).float()
    return counts.sum() / (num_classes * counts)


def train(model, loader, weight):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for x, y in loader:
        logits = model(x)
        loss = (F.cross_entropy(logits, y, reduction="none") * weight[y]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"weighted loss {loss.item():.4f}")


if __name__ == "__main__":
    torch.manual_seed(15)
    features = torch.randn(64, 6)
    labels = torch.bucketize(features[:, 0], torch.tensor([0.3, 1.2]))
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    loader = DataLoader(TensorDataset(features, labels), batch_size=16, shuffle=True)
    train(model, loader, inverse_frequencies(labels, 3))
