"""The loss from its parts on made-up digits, then the first training loop, with an update by hand."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(1)
templates = torch.rand(10, 64)
y_train = torch.randint(0, 10, (1040,))
x_train = templates[y_train] + 0.2 * torch.randn(1040, 64)
n, m = x_train.shape
nh = 50


class Model(nn.Module):
    def __init__(self, n_in, nh, n_out):
        super().__init__()
        self.layers = [nn.Linear(n_in, nh), nn.ReLU(), nn.Linear(nh, n_out)]

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def test_near(a, b):
    assert torch.allclose(a, b, rtol=1e-3, atol=1e-5), f"{a} {b}"


model = Model(m, nh, 10)  # expect-near: parameter-not-registered, ragged-last-batch
pred = model(x_train)


def log_softmax(x):
    return (x.exp() / (x.exp().sum(-1, keepdim=True))).log()  # expect-near: hand-written-log-softmax


def nll(inp, target):
    return -inp[range(target.shape[0]), target].mean()  # expect-near: hand-written-log-softmax


sm_pred = log_softmax(pred)  # expect-near: hand-written-log-softmax
loss = nll(sm_pred, y_train)  # expect-near: hand-written-log-softmax
print(loss)


def log_softmax_2(x):
    return x - x.exp().sum(-1, keepdim=True).log()  # expect-near: hand-written-log-softmax


test_near(nll(log_softmax_2(pred), y_train), loss)  # expect-near: hand-written-log-softmax


def logsumexp(x):
    top = x.max(-1)[0]
    return top + (x - top[:, None]).exp().sum(-1).log()


test_near(logsumexp(pred), pred.logsumexp(-1))
test_near(nll(pred - pred.logsumexp(-1, keepdim=True), y_train), loss)
test_near(F.nll_loss(F.log_softmax(pred, -1), y_train), loss)
test_near(F.cross_entropy(pred, y_train), loss)

loss_func = F.cross_entropy
bs = 64
xb, yb = x_train[0:bs], y_train[0:bs]
print(loss_func(model(xb), yb), (torch.argmax(model(xb), dim=1) == yb).float().mean())

lr = 0.5
for _ in range(1):
    for i in range((n - 1) // bs + 1):
        start_i = i * bs
        end_i = start_i + bs
        xb = x_train[start_i:end_i]
        yb = y_train[start_i:end_i]
        loss = loss_func(model(xb), yb)  # expect-near: ragged-last-batch, parameter-not-registered
        loss.backward()  # expect-near: ragged-last-batch, parameter-not-registered
        with torch.no_grad():
            for layer in model.layers:
                if hasattr(layer, "weight"):
                    layer.weight -= layer.weight.grad * lr
                    layer.bias -= layer.bias.grad * lr
                    layer.weight.grad.zero_()
                    layer.bias.grad.zero_()
print(loss_func(model(xb), yb))
