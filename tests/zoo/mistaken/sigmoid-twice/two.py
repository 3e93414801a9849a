"""Link prediction: a pair of nodes is joined if the product of their embeddings is large."""

import torch
import torch.nn.functional as F
from torch import nn


class LinkPredictor(nn.Module):
    def __init__(self, num_nodes: int, dim: int):
        super().__init__()
        self.nodes = nn.Embedding(num_nodes, dim)
        nn.init.normal_(self.nodes.weight, std=0.3)

    def forward(self, left, right):
        return (self.nodes(left) * self.nodes(right)).sum(dim=-1).sigmoid()


def step(model, optimizer, positive, negative):
    pairs = torch.cat([positive, negative])
    labels = torch.cat([torch.ones(len(positive)), torch.zeros(len(negative))])
    scores = model(pairs[:, 0], pairs[:, 1])
    loss = F.binary_cross_entropy_with_logits(scores, labels)  # expect: sigmoid-twice
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


if __name__ == "__main__":
    torch.manual_seed(23)
    model = LinkPredictor(20, 8)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.05)
    for _ in range(5):
        left = torch.randint(0, 10, (24,))
        positive = torch.stack([left, (left + 1) % 10], dim=1)
        negative = torch.stack([left, 10 + torch.randint(0, 10, (24,))], dim=1)
        print(float(step(model, optimizer, positive, negative)))
