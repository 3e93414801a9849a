# args: --epochs 3 --lr 0.05 --hidden 12
"""A script with arguments that ends with sys.exit(0)."""

import argparse
import sys

import torch
from torch import nn, optim


def parse(argv):
    parser = argparse.ArgumentParser(description="train a small classifier")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--hidden", type=int, default=8)
    return parser.parse_args(argv)


def main(argv):
    options = parse(argv)
    torch.manual_seed(56)
    model = nn.Sequential(nn.Linear(6, options.hidden), nn.ReLU(), nn.Linear(options.hidden, 3))
    optimizer = optim.SGD(model.parameters(), lr=options.lr)
    criterion = nn.CrossEntropyLoss()
    for epoch in range(options.epochs):
        x = torch.randn(32, 6)
        optimizer.zero_grad()
        loss = criterion(model(x), x[:, :3].argmax(dim=1))
        loss.backward()
        optimizer.step()
        print(f"[{epoch + 1}/{options.epochs}] {loss.item():.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
