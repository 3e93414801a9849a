"""A training step as a function: torch.func, gradients by transformation, an update by hand."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad_and_value, vmap

torch.manual_seed(45)
model = nn.Sequential(nn.Linear(5, 10), nn.Tanh(), nn.Linear(10, 3))
parameters = {name: p.detach() for name, p in model.named_parameters()}


def loss_of(parameters, x, y):
    return F.cross_entropy(functional_call(model, parameters, (x,)), y)


def loss_of_row(parameters, x, y):
    return loss_of(parameters, x[None], y[None])


for step in range(4):
    x = torch.randn(20, 5)
    y = x[:, :3].argmax(dim=1)
    gradients, loss = grad_and_value(loss_of)(parameters, x, y)
    parameters = {name: p - 0.2 * gradients[name] for name, p in parameters.items()}
    print(step, f"{loss.item():.4f}")
_, losses = vmap(grad_and_value(loss_of_row), in_dims=(None, 0, 0))(parameters, x, y)
print(f"hardest row {losses.argmax().item()}")
