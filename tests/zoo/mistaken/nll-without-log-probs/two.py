"""Evaluate a saved linear model: accuracy and negative log-likelihood on a test set."""

import torch
import torch.nn.functional as F


def evaluate(weight, bias, features, labels, batch_size=25):
    nll, hits = 0.0, 0
    for i in range(0, len(labels), batch_size):
        x, y = features[i : i + batch_size], labels[i : i + batch_size]
        probabilities = F.softmax(x @ weight.T + bias, dim=1)
        nll += F.nll_loss(probabilities, y, reduction="sum").item()  # expect: nll-without-log-probs
        hits += (probabilities.argmax(dim=1) == y).sum().item()
    return nll / len(labels), hits / len(labels)


@torch.no_grad()
def main():
    generator = torch.Generator().manual_seed(12)
    weight = torch.randn(5, 16, generator=generator)
    bias = torch.randn(5, generator=generator)
    features = torch.randn(100, 16, generator=generator)
    labels = (features @ weight.T + bias).argmax(dim=1)
    nll, accuracy = evaluate(weight, bias, features, labels)
    print(f"test nll {nll:.4f}, accuracy {accuracy:.2f}")


if __name__ == "__main__":
    main()
