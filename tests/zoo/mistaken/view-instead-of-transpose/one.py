"""Named-entity tags for every token, the loss over (batch, classes, tokens)."""

import torch
import torch.nn as nn

torch.manual_seed(13)
BATCH, TOKENS, CLASSES = 6, 7, 4

encoder = nn.Sequential(nn.Embedding(25, 12), nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, CLASSES))
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(encoder.parameters(), lr=0.01)

for step in range(5):
    tokens = torch.randint(25, (BATCH, TOKENS))
    entities = tokens % CLASSES
    logits = encoder(tokens)
    logits = logits.view(BATCH, CLASSES, TOKENS)
    loss = criterion(logits, entities)  # expect: view-instead-of-transpose
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, loss.item())
