"""REINFORCE on a contextual bandit, with an entropy bonus and a baseline."""

import torch
from torch import nn
from torch.distributions import Categorical

torch.manual_seed(39)
policy = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))
value = nn.Linear(4, 1)
optimizer = torch.optim.Adam([*policy.parameters(), *value.parameters()], lr=0.02)
for episode in range(15):
    state = torch.randn(32, 4)
    distribution = Categorical(logits=policy(state))
    action = distribution.sample()
    reward = (action == state[:, :3].argmax(dim=1)).float()
    baseline = value(state).squeeze(1)
    advantage = reward - baseline.detach()
    policy_loss = -(distribution.log_prob(action) * advantage).mean()
    value_loss = (baseline - reward).square().mean()
    loss = policy_loss + 0.5 * value_loss - 0.01 * distribution.entropy().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if episode % 5 == 4:
        print(f"episode {episode}: reward {reward.mean().item():.3f}")
