"""Tag every frame of a signal with one of five phones."""

import torch
from torch import nn

FRAMES, PHONES = 12, 5


class FrameClassifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(8, 16, batch_first=True)
        self.project = nn.Linear(16, PHONES)
        self.log_softmax = nn.LogSoftmax(dim=1)

    def forward(self, signal):
        hidden, _ = self.rnn(signal)
        return self.log_softmax(self.project(hidden)).transpose(1, 2)


def run():
    torch.manual_seed(21)
    model = FrameClassifier()
    criterion = nn.NLLLoss(reduction="mean")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    history = []
    for _ in range(4):
        signal = torch.randn(3, FRAMES, 8)
        phones = signal[..., :PHONES].argmax(dim=-1)
        model.zero_grad()
        loss = criterion(model(signal), phones)  # expect: softmax-wrong-dim
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    return history


print(["%.3f" % value for value in run()])
