"""Runs of `xent train language_model` as models that score texts."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xent.recipes._threads import torch_threads
from xent.recipes.language_model import LanguageLearner
from xent.recipes.language_model_runs import trained
from xent.scoring._text_scores import Tokens


class RunModel:
    """A `LanguageModel` on a run."""

    def __init__(self, path: Path) -> None:
        self.learner: LanguageLearner = trained(path)
        self.path = path
        self.context: int | None = self.learner.config.context
        self.notes: list[str] = []
        self._threads = self.learner.config.threads or 1

    def describe(self) -> str:
        """Its path, kind and sizes."""
        config, data = self.learner.config, self.learner.data
        return f"{self.path}, {config.model}, {data.num_tokens:,} classes, context {config.context:,}"

    def beginning(self) -> str:
        """What stands before every text."""
        return "nothing stands before a text; its first token is not scored"

    def identity(self) -> dict[str, object]:
        """The weights, by size and time."""
        status = (self.path / "model.safetensors").stat()
        return {"model": str(self.path.absolute()), "size": status.st_size, "changed_model": status.st_mtime_ns}

    def validation_text(self) -> str:
        """The end of the corpus, on which the run was measured."""
        return self.learner.data.tokenizer.decode(self.learner.data.validation.tolist())

    def encode(self, text: str) -> Tokens:
        """The tokens of a text."""
        tokenizer = self.learner.data.tokenizer
        ids = tokenizer.encode(text).tolist()
        sizes = tokenizer.bytes_of_token[ids].numpy()
        return Tokens(ids, _pieces(text, sizes), has_beginning=False)

    @torch.no_grad()
    def logits(self, input_BT: Tensor, is_read_BT: Tensor, is_scored_BT: Tensor) -> _Rows:
        """Logits (N, V) of the positions that are scored; the padding comes after all of them."""
        with torch_threads(self._threads):
            hidden_BTD = self.learner.model(input_BT.int())
        return _Rows(hidden_BTD[is_scored_BT], self.learner.model.embedding.weight)


def _pieces(text: str, sizes: np.ndarray) -> list[str]:
    """The text cut by tokens of so many bytes; a character is of the token that holds its first byte."""
    content = np.frombuffer(text.encode(), np.uint8)
    begun = np.concatenate([[0], ((content & 0xC0) != 0x80).cumsum()])  # characters that begin before each byte
    ends = begun[sizes.cumsum()].tolist()
    return [text[begin:end] for begin, end in pairwise([0, *ends])]


class _Rows:
    def __init__(self, hidden_ND: Tensor, weight_VD: Tensor) -> None:
        self._hidden, self._weight = hidden_ND, weight_VD
        self.shape = torch.Size((len(hidden_ND), len(weight_VD)))

    def rows(self, begin: int, end: int) -> Tensor:
        return F.linear(self._hidden[begin:end], self._weight)
