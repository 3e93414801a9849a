"""Cross-entropy and binary cross-entropy of squashed outputs, then a network for XOR.

torch now refuses targets outside 0..1 in BCELoss; the program prints that and goes on, as one does in a notebook.
Bits against nats (log2 beside the loss) has no rule: the doctor sees no log2 of a float.
"""

import math

import numpy as np
import torch
from torch import nn, optim

torch.manual_seed(7)
criterion = nn.CrossEntropyLoss()
last_layer = torch.randn(5, 2)
predictions = torch.sigmoid(last_layer)
truth = torch.LongTensor(5, 1).random_(0, 2).squeeze(1)
loss = criterion(predictions, truth)  # expect: sigmoid-before-cross-entropy
print("two sigmoids as logits:", loss)

binary = nn.BCELoss()
probabilities = torch.sigmoid(torch.randn(5, 3))
labels = torch.LongTensor(5, 3).random_(0, 2).float()
print("three labels per row:", binary(probabilities, labels))

labels = torch.LongTensor(5, 3).random_(0, 5).float()
try:
    print("labels 0 to 4:", binary(probabilities, labels))  # expect: bce-target-outside-0-1
except RuntimeError as error:
    print("labels 0 to 4:", error)

one_hot = torch.nn.functional.one_hot(truth, 2)
for row, row_truth in zip(predictions, one_hot, strict=True):
    print([-1 * float(t * math.log2(p)) for p, t in zip(row, row_truth, strict=True)])  # bits; the loss is in nats

x = torch.tensor(np.array([[0, 0], [0, 1], [1, 0], [1, 1]])).float()
y = torch.tensor(np.array([0, 1, 1, 0]).T).squeeze(0)
hidden_dim, input_dim, output_dim = 5, 2, 2
model = nn.Sequential(
    nn.Linear(input_dim, hidden_dim),
    nn.Sigmoid(),
    nn.Linear(hidden_dim, output_dim),
    nn.Sigmoid(),
)
optimizer = optim.SGD(model.parameters(), lr=0.03)
predictions = model(x)
loss = criterion(predictions, y)  # expect: sigmoid-before-cross-entropy
print(loss)
print(next(iter(model.parameters())).grad is None)
loss.backward()
print(loss.grad_fn is not None, next(iter(model.parameters())).grad)
