"""The tokens to train and to validate on: a corpus cut by position, and what its tokens stand for."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xent.errors import DataError, RunError
from xent.recipes._corpus import Corpus, read_corpus
from xent.recipes._landmarks import TextLandmarks
from xent.recipes._run_directory import RunDirectory
from xent.recipes._tokenizers import Tokenizer, new_tokenizer, read_tokenizer
from xent.recipes.language_model_config import LanguageModelConfig

TOKENIZER = "tokenizer.json"  # in the run directory
_PROMPT_CHARACTERS, _PROMPT_SEARCH = 40, 400
_WINDOWS_AT_ONCE = 64  # in an evaluation, which holds their hidden states


@dataclass(frozen=True)
class TextTokens:
    """Token ids of both parts, uint8 or int32, each (N,); and where they came from.

    Attributes:
        train: tokens of the beginning of the corpus.
        validation: tokens of its end.
        validation_bytes: of the end.
        tokenizer: made them.
        prompt: the first words of the validation part.
        source: where the text came from.
        sha256: of the text.
    """

    train: Tensor
    validation: Tensor
    validation_bytes: int
    tokenizer: Tokenizer
    prompt: str
    source: str
    sha256: str

    @property
    def num_tokens(self) -> int:
        """V."""
        return len(self.tokenizer.bytes_of_token)

    def to_dict(self) -> dict[str, Any]:
        """What config.json says about the data."""
        return {
            "source": self.source,
            "sha256": self.sha256,
            "train_tokens": len(self.train),
            "validation_tokens": len(self.validation),
            "validation_bytes": self.validation_bytes,
            "vocabulary": self.num_tokens,
            "tokenizer_sha256": hashlib.sha256(self.tokenizer.to_bytes()).hexdigest(),
        }

    def landmarks(self, max_tokens: int | None) -> TextLandmarks:
        """What losses on the validation part are read against; on the tokens that `windows_of` predicts."""
        counts = torch.bincount(self.train.long(), minlength=self.num_tokens).double() + 1
        predicted = self.validation[1 : None if max_tokens is None else max_tokens + 1].long()
        return TextLandmarks(
            num_tokens=self.num_tokens,
            guessing=math.log(self.num_tokens),
            unigram=-float((counts / counts.sum()).log()[predicted].mean()),
            tokens_per_byte=len(predicted) / int(self.tokenizer.bytes_of_token[predicted].sum()),
        )


def load_text_tokens(config: LanguageModelConfig, run: RunDirectory | None) -> TextTokens:
    """Read the corpus, cut it, and turn it into tokens, with the tokenizer of `run` or a new one.

    Raises:
        OptionError: a path does not exist.
        DataError: a file is no text, can't be read, or the corpus is too short.
        RunError: the text is not what `run` began with, or its tokenizer is missing or damaged.
    """
    corpus = read_corpus(config.data, config.most_bytes)
    if run:
        run.check_data(corpus.source, corpus.sha256)  # before its tokenizer meets characters it does not know
    cut = round(len(corpus.text) * (1 - config.validation_share))
    train, validation = corpus.text[:cut], corpus.text[cut:]
    tokenizer = _tokenizer_of(run, config) if run else new_tokenizer(config, train, corpus.text)
    tokens = TextTokens(
        train=_encoded(train, tokenizer),
        validation=_encoded(validation, tokenizer),
        validation_bytes=len(validation.encode()),
        tokenizer=tokenizer,
        prompt=_first_words(validation),
        source=corpus.source,
        sha256=corpus.sha256,
    )
    _check_length(tokens, config.context, corpus)
    return tokens


def windows_of(tokens_N: Tensor, context: int, max_tokens: int | None = None) -> list[Tensor]:
    """Cut tokens into batches (B, T) of windows that predict each token but the very first once.

    A window's first token is the last of the window before: read here, predicted there. The last window is as short as
    it comes, a batch of its own.
    """
    tokens_N = tokens_N[: None if max_tokens is None else max_tokens + 1]
    batches: list[Tensor] = []
    num_whole = (len(tokens_N) - 1) // (context - 1)
    if num_whole:
        batches += tokens_N.unfold(0, context, context - 1).split(_WINDOWS_AT_ONCE)
    rest_N = tokens_N[num_whole * (context - 1) :]
    return batches + ([rest_N.unsqueeze(0)] if len(rest_N) > 1 else [])


def windows_over(tokens_N: Tensor, context: int, max_tokens: int) -> list[Tensor]:
    """As `windows_of`, of whole windows spread evenly, so that they predict about `max_tokens` tokens or fewer."""
    windows_BT = tokens_N.unfold(0, context, context - 1)
    spread = math.ceil(len(windows_BT) / max(1, max_tokens // (context - 1)))
    return list(windows_BT[::spread].split(_WINDOWS_AT_ONCE))


def _first_words(text: str) -> str:
    begin = text.find("\n", 0, _PROMPT_SEARCH) + 1  # the cut is likely to be inside a word
    return text[begin : begin + _PROMPT_CHARACTERS] or text[:_PROMPT_CHARACTERS]


def _encoded(text: str, tokenizer: Tokenizer) -> Tensor:
    return tokenizer.encode(text) if text else torch.empty(0, dtype=torch.uint8)


def _tokenizer_of(run: RunDirectory, config: LanguageModelConfig) -> Tokenizer:
    content = run.read(TOKENIZER)
    if hashlib.sha256(content).hexdigest() != run.config["data"].get("tokenizer_sha256"):
        raise RunError(
            f"{run.path / TOKENIZER} is damaged (its SHA-256 differs)",
            "a run keeps its tokens",
            "restore it, or start a new run",
        )
    try:
        return read_tokenizer(config, content)
    except DataError:
        raise
    except Exception as error:  # whatever a parser says to a file of another version
        raise RunError(
            f"{run.path / TOKENIZER} is no tokenizer of {config.tokens} ({str(error).splitlines()[0]})",
            "config.json and it must be of one run",
            "restore them, or start a new run",
        ) from error


def _check_length(tokens: TextTokens, context: int, corpus: Corpus) -> None:
    for part, there, need in (("training", tokens.train, context), ("validation", tokens.validation, 2)):
        if len(there) < need:
            raise DataError(
                f"{corpus.source}: {len(there)} tokens in the {part} part",
                f"a window needs {need}",
                "pass more text" + (", or a smaller --context" if part == "training" else " to --data"),
            )
