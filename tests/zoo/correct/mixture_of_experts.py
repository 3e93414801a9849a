"""A mixture of experts: softmax gate, best two experts, a loss that balances the load."""

import torch
import torch.nn.functional as F
from torch import nn


class MoE(nn.Module):
    def __init__(self, width=12, experts=4, top=2):
        super().__init__()
        self.gate = nn.Linear(width, experts)
        self.experts = nn.ModuleList(nn.Linear(width, width) for _ in range(experts))
        self.top = top

    def forward(self, x):
        probabilities = self.gate(x).softmax(dim=-1)
        weights, chosen = probabilities.topk(self.top, dim=-1)
        mask = torch.zeros_like(probabilities).scatter(1, chosen, weights / weights.sum(dim=-1, keepdim=True))
        y = sum(mask[:, i : i + 1] * expert(x) for i, expert in enumerate(self.experts))
        load = (mask > 0).float().mean(dim=0)
        return x + F.gelu(y), len(self.experts) * (load * probabilities.mean(dim=0)).sum()


torch.manual_seed(38)
moe, head = MoE(), nn.Linear(12, 5)
optimizer = torch.optim.AdamW([*moe.parameters(), *head.parameters()], lr=0.01)
for step in range(5):
    x = torch.randn(32, 12)
    hidden, balance = moe(x)
    loss = F.cross_entropy(head(hidden), x[:, :5].argmax(dim=1)) + 0.01 * balance
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
