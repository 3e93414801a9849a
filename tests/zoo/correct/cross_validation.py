"""Three folds, a fresh model and optimizer for each."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(70)
x = torch.randn(90, 6)
y = x[:, :3].argmax(dim=1)
scores = []
for fold in range(3):
    test = torch.arange(90) % 3 == fold
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Dropout(0.1), nn.Linear(12, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model.train()
    for rows in torch.randperm(60).split(20):
        loss = F.cross_entropy(model(x[~test][rows]), y[~test][rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        scores.append(F.cross_entropy(model(x[test]), y[test]))
print(f"{torch.stack(scores).mean().item():.4f} ± {torch.stack(scores).std().item():.4f}")
