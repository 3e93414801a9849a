"""A variational autoencoder: binary cross-entropy summed over the pixels plus the divergence."""

import torch
import torch.nn.functional as F
from torch import nn


class VAE(nn.Module):
    def __init__(self, pixels=36, latent=4):
        super().__init__()
        self.encode = nn.Linear(pixels, 24)
        self.mu, self.log_var = nn.Linear(24, latent), nn.Linear(24, latent)
        self.decode = nn.Sequential(nn.Linear(latent, 24), nn.ReLU(), nn.Linear(24, pixels), nn.Sigmoid())

    def forward(self, x):
        h = torch.relu(self.encode(x))
        mu, log_var = self.mu(h), self.log_var(h)
        z = mu + torch.exp(0.5 * log_var) * torch.randn_like(mu)
        return self.decode(z), mu, log_var


def elbo_loss(reconstruction, x, mu, log_var):
    bce = F.binary_cross_entropy(reconstruction, x, reduction="sum")
    kld = -0.5 * torch.sum(1 + log_var - mu.pow(2) - log_var.exp())
    return (bce + kld) / len(x)


torch.manual_seed(40)
vae = VAE()
optimizer = torch.optim.Adam(vae.parameters(), lr=5e-3)
patterns = (torch.rand(5, 36) > 0.5).float() * 0.9 + 0.05
for step in range(6):
    x = patterns[torch.randint(0, 5, (20,))]
    loss = elbo_loss(*(lambda out: (out[0], x, out[1], out[2]))(vae(x)))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.3f}")
