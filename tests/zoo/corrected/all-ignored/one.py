"""Score answers: the prompt's tokens are masked, long prompts are cut at the context length."""

import torch
import torch.nn.functional as F

CONTEXT = 8
torch.manual_seed(0)
embedding = torch.randn(50, 16) * 0.2
output = torch.randn(16, 50) * 0.2


def build(prompt, answer):
    tokens = (prompt + answer)[-CONTEXT:]
    labels = ([-100] * len(prompt) + answer)[-CONTEXT:]
    return torch.tensor([tokens[:-1]]), torch.tensor([labels[1:]])


examples = [
    ([3, 14, 15], [9, 26, 5, 35]),
    ([8, 9, 7, 9, 3, 23, 8, 46, 26], [4, 33]),
    ([2, 7, 18], [28, 18, 28, 45]),
]

with torch.no_grad():
    for prompt, answer in examples:
        ids, labels = build(prompt, answer)
        logits = embedding[ids] @ output
        loss = F.cross_entropy(logits.view(-1, 50), labels.view(-1))
        print(f"{len(prompt)} prompt tokens: {loss.item():.4f}")
