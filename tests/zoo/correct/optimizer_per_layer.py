"""Every layer has an optimizer that steps as soon as its gradient is there, to save memory."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(46)
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
optimizers = {p: torch.optim.SGD([p], lr=0.05) for p in model.parameters()}


def step_and_clear(parameter):
    optimizers[parameter].step()
    optimizers[parameter].zero_grad()


for parameter in model.parameters():
    parameter.register_post_accumulate_grad_hook(step_and_clear)

for step in range(6):
    x = torch.randn(16, 8)
    loss = F.cross_entropy(model(x), x[:, :4].argmax(dim=1))
    loss.backward()
    print(step, f"{loss.item():.4f}")
