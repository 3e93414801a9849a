"""Keep the policy close to the reference policy."""

import torch
import torch.nn.functional as F
from torch import nn


class Policy(nn.Module):
    def __init__(self, observations=6, actions=4):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(observations, 16), nn.Tanh(), nn.Linear(16, actions))

    def forward(self, observation):
        return F.softmax(self.net(observation), dim=-1)


def penalty(policy, reference, observation):
    with torch.no_grad():
        old = reference(observation)
    new = policy(observation)
    return F.kl_div(new, old, reduction="batchmean")  # expect: kl-div-misuse


def main():
    torch.manual_seed(51)
    reference, policy = Policy(), Policy()
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.05)
    for _ in range(3):
        loss = penalty(policy, reference, torch.randn(8, 6))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"penalty {loss.item():.5f}")


main()
