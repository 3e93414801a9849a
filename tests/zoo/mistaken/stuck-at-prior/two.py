"""Images are scaled in the dataset, and again by the transform."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset


def to_unit_range(image):
    return image / 255.0


class Shapes(Dataset):
    def __init__(self, size, transform):
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.arange(size) % 4
        patterns = torch.randint(0, 256, (4, 49), generator=generator)
        noise = torch.randint(-20, 21, (size, 49), generator=generator)
        self.images = (patterns[self.labels] + noise).clamp(0, 255).float()
        self.transform = transform

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.transform(self.images[index] / 255.0), self.labels[index]


def main():
    torch.manual_seed(3)
    loader = DataLoader(Shapes(160, transform=to_unit_range), batch_size=16, shuffle=True)
    model = nn.Sequential(nn.Linear(49, 16), nn.ReLU(), nn.Linear(16, 4))  # expect-near: stuck-at-prior
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)  # expect-near: stuck-at-prior
    for epoch in range(30):
        for images, labels in loader:
            loss = F.cross_entropy(model(images), labels)  # expect-near: stuck-at-prior
            optimizer.zero_grad()
            loss.backward()  # expect-near: stuck-at-prior
            optimizer.step()  # expect-near: stuck-at-prior
    print(f"epoch {epoch}: {loss.item():.4f}")


main()
