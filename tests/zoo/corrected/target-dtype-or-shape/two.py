"""A dataset class whose labels are a column."""

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset


class Readings(Dataset):
    def __init__(self, size):
        generator = torch.Generator().manual_seed(3)
        self.values = torch.randn(size, 7, generator=generator)

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        value = self.values[index]
        return value, value[:4].argmax(dim=0, keepdim=True)


class Learner:
    def __init__(self):
        torch.manual_seed(9)
        self.weight = torch.nn.Parameter(0.1 * torch.randn(4, 7))
        self.optimizer = torch.optim.SGD([self.weight], lr=0.1)

    def training_step(self, batch):
        values, label = batch
        return F.cross_entropy(values @ self.weight.T, label.squeeze(1))

    def run(self, loader):
        for batch in loader:
            loss = self.training_step(batch)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            print("loss", loss.item())


Learner().run(DataLoader(Readings(32), batch_size=8))
