"""Cross-entropy as minus the logit of the target plus the log-sum-exp, each of which is printed."""

import torch
import torch.nn.functional as F

torch.manual_seed(0)
labels = torch.randint(4, (48,))
inputs = F.one_hot(labels, 4).float() + 0.3 * torch.randn(48, 4)
model = torch.nn.Linear(4, 4)
optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
for _ in range(30):
    logits = model(inputs)
    fit = F.nll_loss(logits, labels)
    normaliser = logits.logsumexp(1).mean()
    optimizer.zero_grad()
    (fit + normaliser).backward()
    optimizer.step()
print(f"{fit.item():.4f} + {normaliser.item():.4f}")
