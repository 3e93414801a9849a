"""Trainer with automatic mixed precision and clipping by value."""

import torch
import torch.nn.functional as F
from torch import nn


class AmpTrainer:
    def __init__(self, model, lr=1e-3, clip=0.5):
        self.model = model
        self.clip = clip
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=lr)  # expect-near: clip-before-unscale
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)

    def forward(self, x, y):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = self.model(x)
        return F.cross_entropy(logits.float(), y)

    def step(self, x, y):
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.forward(x, y)
        self.scaler.scale(loss).backward()  # expect-near: clip-before-unscale
        self.clip_gradients()
        self.scaler.step(self.optimizer)  # expect-near: clip-before-unscale
        self.scaler.update()
        return loss.item()

    def clip_gradients(self):
        nn.utils.clip_grad_value_(self.model.parameters(), self.clip)  # expect-near: clip-before-unscale


torch.manual_seed(16)
trainer = AmpTrainer(nn.Sequential(nn.Linear(10, 20), nn.GELU(), nn.Linear(20, 5)))
for _ in range(4):
    x = torch.randn(24, 10)
    print(f"{trainer.step(x, x[:, :5].argmax(dim=1)):.4f}")
