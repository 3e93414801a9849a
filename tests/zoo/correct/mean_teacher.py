"""A student and a teacher that is the moving average of it."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(25)
student = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
teacher = copy.deepcopy(student).requires_grad_(False)
optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
for step in range(6):
    labelled, unlabelled = torch.randn(16, 8), torch.randn(32, 8)
    supervised = F.cross_entropy(student(labelled), labelled[:, :4].argmax(dim=1))
    consistency = F.mse_loss(
        student(unlabelled + 0.1 * torch.randn_like(unlabelled)).softmax(dim=1), teacher(unlabelled).softmax(dim=1)
    )
    loss = supervised + 0.5 * consistency
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
            slow.lerp_(fast, 0.05)
    print(step, f"{supervised.item():.4f} {consistency.item():.5f}")
