"""Words → vectors → LSTM → one state → logits, on padded rows of which the padding is never read.

B rows, T tokens, D features of a word, H units, C classes
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from xent.recipes._text_rows import PADDING, Batch


class TextClassifier(nn.Module):
    """An LSTM over word vectors, its last state or an attention over all of them, and a linear head.

    A text without words has the zero state, so that its logits are the head's bias.
    """

    def __init__(self, words: nn.Module, num_features: int, hidden: int, num_classes: int, *, attention: bool) -> None:
        super().__init__()
        self.words = words
        self.lstm = nn.LSTM(num_features, hidden, batch_first=True)
        self.attention = nn.Linear(hidden, 1) if attention else None
        self.head = nn.Linear(hidden, num_classes)

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, C)."""
        vectors_BTD = self.words(batch.words)
        lengths_B = batch.lengths.clamp(min=1)  # packing refuses an empty row; its state is replaced below
        packed = pack_padded_sequence(vectors_BTD, lengths_B, batch_first=True, enforce_sorted=False)
        states, (last_1BH, _) = self.lstm(packed)
        state_BH = last_1BH[0] if self.attention is None else self._attended(*pad_packed_sequence(states, True))
        return self.head(torch.where(batch.lengths.unsqueeze(1) > 0, state_BH, 0.0))

    def _attended(self, states_BTH: Tensor, lengths_B: Tensor) -> Tensor:
        scores_BT = self.attention(states_BTH).squeeze(2)  # pyright: ignore[reportOptionalCall]
        padding_BT = torch.arange(states_BTH.shape[1]) >= lengths_B.unsqueeze(1)
        shares_BT = scores_BT.masked_fill(padding_BT, -torch.inf).softmax(1)
        return (shares_BT.unsqueeze(2) * states_BTH).sum(1)


class FixedVectors(nn.Module):
    """Word vectors that are not trained and not saved: padding and unknown words are zero."""

    table: Tensor

    def __init__(self, vectors_UD: Tensor) -> None:
        super().__init__()
        nothing_2D = torch.zeros(2, vectors_UD.shape[1])
        self.register_buffer("table", torch.cat([nothing_2D, vectors_UD]), persistent=False)

    def forward(self, words_BT: Tensor) -> Tensor:
        """Vectors (B, T, D)."""
        return nn.functional.embedding(words_BT, self.table)


def trained_vectors(num_words: int, num_features: int) -> nn.Embedding:
    """Word vectors to train, of shape only; the padding's stays zero."""
    return nn.Embedding(num_words, num_features, padding_idx=PADDING, device="meta")


def initialised(model: TextClassifier, generator: torch.Generator) -> TextClassifier:
    """The model with its first weights, drawn by `generator`: a real device's come from the global one."""
    model = model.to_empty(device="cpu") if not isinstance(model.words, FixedVectors) else _with_kept_vectors(model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith("words."):
                weight.normal_(generator=generator)
                weight[PADDING] = 0.0
            elif weight.dim() == 1:
                weight.zero_()
            else:
                bound = weight.shape[1] ** -0.5
                weight.uniform_(-bound, bound, generator=generator)
        hidden = model.lstm.hidden_size
        dict(model.named_parameters())["lstm.bias_ih_l0"][hidden : 2 * hidden] = 1.0  # the forget gate begins open
    return model


def _with_kept_vectors(model: TextClassifier) -> TextClassifier:
    kept = model.words
    model.words = nn.Identity()
    model = model.to_empty(device="cpu")
    model.words = kept
    return model
