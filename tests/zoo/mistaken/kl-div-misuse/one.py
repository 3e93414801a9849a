"""Match a student to a teacher with the Kullback-Leibler divergence."""

import torch
from torch import nn

torch.manual_seed(0)
teacher = nn.Linear(10, 20)
student = nn.Sequential(nn.Linear(10, 4), nn.ReLU(), nn.Linear(4, 20))
for p in teacher.parameters():
    p.requires_grad = False

criterion = nn.KLDivLoss()
optimizer = torch.optim.Adam(student.parameters(), lr=0.01)

for step in range(4):
    x = torch.randn(16, 10)
    target = torch.softmax(teacher(x), dim=1)
    prediction = torch.log_softmax(student(x), dim=1)
    loss = criterion(prediction, target)  # expect: kl-div-misuse
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, loss.item())
