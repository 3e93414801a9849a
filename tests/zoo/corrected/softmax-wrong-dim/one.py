"""A two-layer network in the style of the first tutorials."""

import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim


class Net(nn.Module):
    def __init__(self):
        super(Net, self).__init__()
        self.fc1 = nn.Linear(20, 32)
        self.fc2 = nn.Linear(32, 6)

    def forward(self, x):
        x = F.relu(self.fc1(x))
        x = self.fc2(x)
        return F.log_softmax(x, dim=1)


torch.manual_seed(0)
net = Net()
optimizer = optim.SGD(net.parameters(), lr=0.05, momentum=0.5)
data = torch.randn(64, 20)
target = data[:, :6].argmax(dim=1)

for i in range(4):
    rows = slice(16 * i, 16 * (i + 1))
    optimizer.zero_grad()
    output = net(data[rows])
    loss = F.nll_loss(output, target[rows])
    loss.backward()
    optimizer.step()
    print("Train step: {} Loss: {:.6f}".format(i, loss.item()))
