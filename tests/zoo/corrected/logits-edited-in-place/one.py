"""Temperature scaling of a fixed set of scores, tried out line by line."""

import torch
from torch import nn

torch.manual_seed(6)
scores = torch.randn(10, 4) * 2
labels = torch.randint(0, 4, (10,))
criterion = nn.CrossEntropyLoss()
temperature = 2.5

before = criterion(scores, labels)
print(f"before {before:.4f}")

scaled = scores.clone()
for i in range(len(scores)):
    scaled[i] = scaled[i] / temperature

after = criterion(scaled, labels)
print(f"after  {after:.4f}")
