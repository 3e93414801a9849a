"""Text as tokens and back: bytes, characters, or byte pair encoding. Each knows how many bytes a token stands for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from xent.errors import DataError, OptionError
from xent.recipes.language_model_config import DEFAULT_VOCABULARY, LanguageModelConfig

_BLOCK = 1 << 20  # characters that are encoded at once; a constant, because a token never crosses its edge


class Tokenizer(Protocol):
    """Text as tokens and back.

    Attributes:
        bytes_of_token: UTF-8 bytes that each token stands for, (V,) int64.
    """

    bytes_of_token: Tensor

    def encode(self, text: str) -> Tensor:
        """Token ids (N,) of a text, uint8 or int32.

        Raises:
            OptionError: a character that there is no token for.
        """
        ...

    def decode(self, tokens: list[int]) -> str:
        """The text of tokens; U+FFFD for bytes that are no UTF-8."""
        ...

    def to_bytes(self) -> bytes:
        """The tokenizer as JSON; that of bpe is the format of Hugging Face's `tokenizers`."""
        ...


class ByteTokenizer:
    """A token for each of the 256 bytes."""

    def __init__(self) -> None:
        self.bytes_of_token = torch.ones(256, dtype=torch.long)

    def encode(self, text: str) -> Tensor:
        """UTF-8 bytes."""
        return torch.from_numpy(np.frombuffer(bytearray(text.encode()), np.uint8))

    def decode(self, tokens: list[int]) -> str:
        """Text of UTF-8 bytes."""
        return bytes(tokens).decode(errors="replace")

    def to_bytes(self) -> bytes:
        """Only a name."""
        return b'{"tokens": "byte"}\n'


class CharTokenizer:
    """A token for each character of an alphabet."""

    def __init__(self, alphabet: str) -> None:
        self.alphabet = alphabet
        self.bytes_of_token = torch.tensor([len(character.encode()) for character in alphabet])
        self._code_points = _code_points(alphabet)

    def encode(self, text: str) -> Tensor:
        """Places in the alphabet."""
        code_points = _code_points(text)
        places = np.searchsorted(self._code_points, code_points).clip(max=len(self._code_points) - 1)
        unknown = np.flatnonzero(self._code_points[places] != code_points)
        if len(unknown):
            raise OptionError(
                f"there is no token for {text[unknown[0]]!r}",
                f"tokens are the {len(self.alphabet):,} characters of the corpus",
                "leave it out, or pass --tokens byte",
            )
        return torch.from_numpy(places.astype(np.int32))

    def decode(self, tokens: list[int]) -> str:
        """Characters of the alphabet."""
        return "".join(self.alphabet[token] for token in tokens)

    def to_bytes(self) -> bytes:
        """The alphabet."""
        return json.dumps({"tokens": "char", "alphabet": self.alphabet}).encode() + b"\n"


class BpeTokenizer:
    """Byte pair encoding over bytes, so that no text is without tokens (Sennrich et al. 2016; Radford et al. 2019)."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        # Over bytes, each character of a token's name stands for one byte.
        names = (tokenizer.id_to_token(token) for token in range(tokenizer.get_vocab_size()))
        self.bytes_of_token = torch.tensor([len(name) for name in names])

    @classmethod
    def trained(cls, text: str, vocabulary: int) -> BpeTokenizer:
        """The tokenizer with the merges that shorten a text most; fewer than `vocabulary` tokens if it has no more."""
        tokenizers = _hugging_face_tokenizers()
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
        every_byte = tokenizers.pre_tokenizers.ByteLevel.alphabet()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocabulary, initial_alphabet=every_byte, show_progress=False
        )
        tokenizer.train_from_iterator(_blocks(text), trainer)
        return cls(tokenizer)

    @classmethod
    def read(cls, content: bytes) -> BpeTokenizer:
        """The tokenizer that `to_bytes` wrote."""
        return cls(_hugging_face_tokenizers().Tokenizer.from_str(content.decode()))

    def encode(self, text: str) -> Tensor:
        """Ids of byte pairs."""
        ids = [np.asarray(self._tokenizer.encode(block).ids, np.int32) for block in _blocks(text)]
        return torch.from_numpy(np.concatenate([np.empty(0, np.int32), *ids]))

    def decode(self, tokens: list[int]) -> str:
        """Text of byte pairs."""
        return self._tokenizer.decode(tokens)

    def to_bytes(self) -> bytes:
        """The format of Hugging Face's `tokenizers`."""
        return self._tokenizer.to_str(pretty=True).encode()


def new_tokenizer(config: LanguageModelConfig, training_text: str, whole_text: str) -> Tokenizer:
    """The tokenizer of a new run: bpe is trained on the training part; an alphabet is that of the whole corpus.

    Raises:
        DataError: bpe without Hugging Face's `tokenizers`.
    """
    if config.tokens == "bpe":
        return BpeTokenizer.trained(training_text, config.vocabulary or DEFAULT_VOCABULARY)
    return CharTokenizer("".join(sorted(set(whole_text)))) if config.tokens == "char" else ByteTokenizer()


def read_tokenizer(config: LanguageModelConfig, content: bytes) -> Tokenizer:
    """The tokenizer of a run, as its `to_bytes` wrote it.

    Raises:
        DataError: bpe without Hugging Face's `tokenizers`.
        ValueError: no tokenizer was written so.
    """
    if config.tokens == "bpe":
        return BpeTokenizer.read(content)
    return CharTokenizer(json.loads(content)["alphabet"]) if config.tokens == "char" else ByteTokenizer()


def _hugging_face_tokenizers() -> Any:
    try:
        import tokenizers  # an optional extra
    except ImportError as error:
        raise DataError(
            "tokenizers is not installed",
            "bpe is trained and read with it",
            "pip install 'xent[language_model]', or pass --tokens byte or char",
        ) from error
    return tokenizers


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


def _blocks(text: str) -> Iterator[str]:
    return (text[begin : begin + _BLOCK] for begin in range(0, len(text), _BLOCK))
