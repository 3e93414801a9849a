"""One linear classifier per class, each with a loss and an optimizer of its own."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(52)
x = torch.randn(80, 6)
y = x[:, :4].argmax(dim=1)
classifiers = [nn.Linear(6, 1) for _ in range(4)]
optimizers = [torch.optim.SGD(c.parameters(), lr=0.5) for c in classifiers]
for epoch in range(3):
    for k, (classifier, optimizer) in enumerate(zip(classifiers, optimizers, strict=True)):
        loss = F.binary_cross_entropy_with_logits(classifier(x).squeeze(1), (y == k).float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
with torch.no_grad():
    scores = torch.cat([classifier(x) for classifier in classifiers], dim=1)
    print(f"accuracy {(scores.argmax(dim=1) == y).float().mean().item():.3f}")
