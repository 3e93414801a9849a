"""What the loss and Adam do: an LSTM reads made-up word vectors; the value is worked out by hand."""

import numpy as np
import torch
from torch import LongTensor, nn, optim

VECTOR_SIZE, HIDDEN, OUTPUTS = 200, 50, 2
torch.manual_seed(0)


class LstmModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(VECTOR_SIZE, HIDDEN, batch_first=True)
        self.linear = nn.Linear(HIDDEN, OUTPUTS)
        self.lstm_output = None

    def forward(self, vectors):
        self.lstm_output, (self.lstm_hidden_state, self.lstm_cell_state) = self.lstm(vectors)
        return self.linear(self.lstm_output[:, -1])


def vectors_of(sentence):
    """A vector for each word, always the same one for the same word."""
    rows = [np.random.default_rng(sum(map(ord, word))).normal(0, 0.4, VECTOR_SIZE) for word in sentence.split()]
    return torch.Tensor(np.array(rows))


def show_parameters():
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            gradient = None if parameter.grad is None else f"{parameter.grad.norm().item():.4f}"
            print(name, tuple(parameter.data.shape), gradient)


model = LstmModel()
loss_function = nn.CrossEntropyLoss()

output = model(torch.stack([vectors_of("nine words make one sentence for one small test")]))
output_loss = loss_function(output, LongTensor([1]))
print(output, output_loss)

output_probabilities = torch.softmax(output, dim=1)
actual = [0, 1]
predicted = output_probabilities[0][0] * actual[0] + output_probabilities[0][1] * actual[1]
print(-np.log(predicted.cpu().detach().numpy()))

sentences = ("five words are enough here", "and five more of them", "the last of the three")
three = torch.stack([vectors_of(sentence) for sentence in sentences])
targets = [1, 0, 1]
multiple_output = model(three)
multiple_loss = loss_function(multiple_output, LongTensor(targets))
print(multiple_loss)

negative_log = -np.log(torch.softmax(multiple_output, dim=1).cpu().detach().numpy())
print((negative_log[0][1] + negative_log[1][0] + negative_log[2][1]) / 3)

optimizer = optim.Adam(model.parameters(), lr=0.01)
show_parameters()
output_loss.backward()
show_parameters()
optimizer.step()
show_parameters()
optimizer.zero_grad()
show_parameters()
