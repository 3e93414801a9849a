"""Small decoders: token ids (B, T) → hidden states (B, T, D), each from the tokens up to its own position.

The head is tied: logits = hidden · embeddingᵀ (Press and Wolf, https://arxiv.org/abs/1608.05859). It is no part of the
model here, because the loss, and nothing else, knows how to have logits without holding them.

B windows, T tokens, D features, H heads, V vocabulary
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_EMBEDDING_STD = 0.02  # logits of a normed hidden state have a deviation of 0.02·√D: a training begins near ln V


class Decoder(nn.Module):
    """What the recipe trains: tokens (B, T) in, hidden states (B, T, D) out, and an embedding (V, D) for the head."""

    embedding: nn.Embedding


class Transformer(Decoder):
    """Causal self-attention with the norm before each layer (Radford et al. 2019, "GPT-2"); no dropout."""

    def __init__(self, num_tokens: int, num_features: int, num_layers: int, num_heads: int, context: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_tokens, num_features)
        self.position = nn.Embedding(context, num_features)
        self.blocks = nn.ModuleList(Block(num_features, num_heads) for _ in range(num_layers))
        self.norm = nn.LayerNorm(num_features)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Hidden states (B, T, D)."""
        hidden_BTD = self.embedding(tokens_BT) + self.position.weight[: tokens_BT.shape[1]]
        for block in self.blocks:
            hidden_BTD = block(hidden_BTD)
        return self.norm(hidden_BTD)


class Block(nn.Module):
    """x + attention(norm(x)), then x + perceptron(norm(x))."""

    def __init__(self, num_features: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(num_features)
        self.query_key_value = nn.Linear(num_features, 3 * num_features)
        self.attention_output = nn.Linear(num_features, num_features)
        self.perceptron_norm = nn.LayerNorm(num_features)
        self.perceptron_input = nn.Linear(num_features, 4 * num_features)
        self.perceptron_output = nn.Linear(4 * num_features, num_features)

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        """Hidden states (B, T, D)."""
        hidden_BTD = hidden_BTD + self.attention_output(self._attention(self.attention_norm(hidden_BTD)))
        perceptron = F.gelu(self.perceptron_input(self.perceptron_norm(hidden_BTD)))
        return hidden_BTD + self.perceptron_output(perceptron)

    def _attention(self, hidden_BTD: Tensor) -> Tensor:
        projected = self.query_key_value(hidden_BTD).unflatten(-1, (3, self.num_heads, -1))  # (B, T, 3, H, D/H)
        query, key, value = projected.permute(2, 0, 3, 1, 4)  # each (B, H, T, D/H)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return attended.transpose(1, 2).flatten(2)  # (B, T, D)


class LongShortTermMemory(Decoder):
    """A stack of LSTM layers; its memory begins empty in every window (Hochreiter and Schmidhuber 1997)."""

    def __init__(self, num_tokens: int, num_features: int, num_layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_tokens, num_features)
        self.embedding_norm = nn.LayerNorm(num_features)
        self.memory = nn.LSTM(num_features, num_features, num_layers, batch_first=True)
        self.norm = nn.LayerNorm(num_features)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Hidden states (B, T, D)."""
        hidden_BTD, _ = self.memory(self.embedding_norm(self.embedding(tokens_BT)))
        return self.norm(hidden_BTD)


def initialised(model: Decoder, generator: torch.Generator) -> Decoder:
    """A model that was made on "meta", on the CPU with weights drawn by `generator`.

    By way of "meta", because the layers of a real device draw their weights from the global generator.
    """
    model = model.to_empty(device="cpu")
    for name, parameter in model.named_parameters():
        _initialise(name, parameter, generator)
    return model


@torch.no_grad()
def _initialise(name: str, parameter: Tensor, generator: torch.Generator) -> None:
    if "norm" in name:
        parameter.fill_(float(name.endswith("weight")))
    elif "embedding" in name or "position" in name:
        parameter.normal_(std=_EMBEDDING_STD, generator=generator)
    elif parameter.dim() == 1:
        parameter.zero_()
    else:
        parameter.normal_(std=parameter.shape[1] ** -0.5, generator=generator)
