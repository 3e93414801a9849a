"""A deep network whose hidden layers are kept in a list."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class DeepNet(nn.Module):
    def __init__(self, sizes, classes):
        super().__init__()
        self.hidden = nn.ModuleList([nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False)])
        self.output = nn.Linear(sizes[-1], classes)

    def forward(self, x):
        for layer in self.hidden:
            x = F.relu(layer(x))
        return self.output(x)


torch.manual_seed(0)
model = DeepNet([8, 16, 16], classes=3)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

for step in range(5):
    x = torch.randn(32, 8)
    y = x[:, :3].argmax(dim=1)
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    print(step, loss.item())
