"""Softmax only for the metrics: accuracy, confidence, calibration."""

import torch
import torch.nn.functional as F
from torch import nn


def calibration_error(probabilities, labels, bins=5):
    confidence, prediction = probabilities.max(dim=1)
    correct = (prediction == labels).float()
    error = 0.0
    for low in torch.arange(bins) / bins:
        inside = (confidence > low) & (confidence <= low + 1 / bins)
        if inside.any():
            error += inside.float().mean() * (correct[inside].mean() - confidence[inside].mean()).abs()
    return float(error)


torch.manual_seed(12)
x = torch.randn(160, 8)
y = x[:, :4].argmax(dim=1)
model = nn.Linear(8, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
for start in range(0, 160, 32):
    logits = model(x[start : start + 32])
    loss = F.cross_entropy(logits, y[start : start + 32])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    probabilities = torch.softmax(logits, dim=1)
    print(f"loss {loss.item():.3f} confidence {probabilities.max(dim=1).values.mean().item():.3f}")
with torch.no_grad():
    print(f"calibration error {calibration_error(F.softmax(model(x), dim=-1), y):.3f}")
