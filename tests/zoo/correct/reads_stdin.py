# stdin: a good film,1\na bad film,0\nnot good,0\nnot bad,1\n
"""Learn from lines of text on the standard input."""

import sys

import torch
from torch import nn

torch.manual_seed(59)
texts, labels = [], []
for line in sys.stdin:
    text, label = line.rstrip("\n").rsplit(",", 1)
    texts.append(text.split())
    labels.append(int(label))
words = sorted({word for text in texts for word in text})
x = torch.tensor([[float(word in text) for word in words] for text in texts])
y = torch.tensor(labels)

model = nn.Linear(len(words), 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
for _ in range(5):
    loss = nn.functional.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"{len(texts)} texts, loss {loss.item():.4f}")
