"""A critic with a gradient penalty, trained more often than its generator."""

import torch
from torch import nn

torch.manual_seed(68)
generator = nn.Sequential(nn.Linear(3, 12), nn.ReLU(), nn.Linear(12, 2))
critic = nn.Sequential(nn.Linear(2, 12), nn.LeakyReLU(0.2), nn.Linear(12, 1))
opt_g = torch.optim.RMSprop(generator.parameters(), lr=1e-3)
opt_c = torch.optim.RMSprop(critic.parameters(), lr=1e-3)
for step in range(12):
    real = torch.randn(16, 2) * 0.2 + 1
    fake = generator(torch.randn(16, 3))
    if step % 4 != 3:
        between = (0.5 * real + 0.5 * fake.detach()).requires_grad_(True)
        (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
        loss = critic(fake.detach()).mean() - critic(real).mean() + 10 * (slope.norm(dim=1) - 1).square().mean()
        opt_c.zero_grad()
        loss.backward()
        opt_c.step()
    else:
        loss = -critic(fake).mean()
        opt_g.zero_grad()
        loss.backward()
        opt_g.step()
    print(step, f"{loss.item():.4f}")
