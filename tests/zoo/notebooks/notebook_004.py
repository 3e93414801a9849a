"""The loss of one-hot rows, checked by hand in place; a sequence by a loop; a softmax over the wrong dimension."""

import numpy as np
import torch
from torch import nn


def softmax(vector):
    return torch.exp(vector) / torch.sum(torch.exp(vector))


inp = torch.tensor([[1.0, 0, 0], [0.0, 1, 0]])
label = torch.tensor([0, 1]).long()
loss = nn.CrossEntropyLoss(reduction="sum")
output = loss(inp, label)  # expect-near: logits-edited-in-place
print(inp.shape, label.shape, output)

for i in range(2):
    inp[i] = softmax(inp[i])  # expect-near: logits-edited-in-place
print(-(np.log(0.5761) + np.log(0.5761)))

inp = torch.tensor(
    [
        [[1, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 1]],
        [[0, 1.0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 1]],
    ]
)
inp = torch.permute(inp, (0, 2, 1))
label = torch.tensor([[0, 1, 2, 2], [1, 1, 0, 0]]).long()
loss = nn.CrossEntropyLoss(reduction="sum")
output = loss(inp, label)
print(inp.shape, label.shape, output)

total = 0
for b in range(2):
    for t in range(4):
        full = torch.eye(3)[label[b][t].item()]
        probabilities = softmax(inp[b, :, t])
        total += sum(-(torch.log(probabilities[i]) * full[i]) for i in range(3))
print("total", total)

torch.manual_seed(0)
criterion = nn.CrossEntropyLoss()
pred = torch.randn([2, 4, 5])
label = torch.randint(0, 4, [2, 5])
pred = nn.Softmax(dim=2)(pred)
print(criterion(pred, label))  # expect: softmax-wrong-dim; allow: softmax-before-cross-entropy
