"""Attack a trained model: gradients of the image by backward(), the parameters' are not used."""

import torch
import torch.nn.functional as F
from torch import nn


def attack(model, image, label, steps=4, size=0.02):
    image = image.clone()
    for _ in range(steps):
        image.requires_grad = True
        loss = F.cross_entropy(model(image), label)
        model.zero_grad()
        loss.backward()
        image = (image.detach() + size * image.grad.sign()).clamp(0, 1)
    return image, loss.item()


torch.manual_seed(30)
model = nn.Sequential(nn.Flatten(), nn.Linear(25, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
images = torch.rand(6, 1, 5, 5)
with torch.no_grad():
    labels = model(images).argmax(dim=1)
attacked, loss = attack(model, images, labels)
flipped = (model(attacked).argmax(dim=1) != labels).sum().item()
print(f"loss {loss:.4f}, {flipped} of {len(labels)} labels flipped")
