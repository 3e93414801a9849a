"""Next-token targets, log-softmax two ways, the negative log-likelihood by a loop: nothing is wrong here.

The log of a softmax is shown beside log_softmax to say that they agree, and never becomes a loss.
"""

import torch
import torch.nn.functional as F

torch.manual_seed(538)
batch_size, context_size, n_vocab = 3, 4, 8

data_batch = torch.randint(high=10, size=(batch_size, context_size + 1), dtype=torch.float32)
x_batch, y_batch = data_batch[:, :context_size], data_batch[:, 1 : context_size + 1]
for b in range(batch_size):
    for t in range(context_size):
        print(b, x_batch[b, : t + 1].tolist(), "->", y_batch[b, t].item())

logits = torch.randn(size=(batch_size * context_size, n_vocab), requires_grad=True)
same = torch.allclose(torch.log(F.softmax(logits, dim=-1)), F.log_softmax(logits, dim=-1))
print("same:", same)

for _ in range(2):
    logits = torch.randn(size=(batch_size, context_size, n_vocab), requires_grad=True)
    targets = torch.randint(high=n_vocab, size=(batch_size, context_size))
    logits = logits.view(batch_size * context_size, n_vocab)
    targets = targets.view(batch_size * context_size)

    output = F.nll_loss(F.log_softmax(logits, dim=-1), targets)
    print(output)

    log_probs = F.log_softmax(logits, dim=-1)
    losses = torch.zeros(len(logits))
    for i in range(len(logits)):
        losses[i] = -log_probs[i, targets[i]]
    print(losses.mean())
    print(F.cross_entropy(logits, targets))
