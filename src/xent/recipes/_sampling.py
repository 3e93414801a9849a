"""Text drawn from a language model, token by token, and made safe to print."""

from __future__ import annotations

import torch
from torch import Tensor

from xent.errors import OptionError
from xent.recipes._threads import torch_threads
from xent.recipes.language_model import LanguageLearner
from xent.recipes.language_model_config import SampleOptions


def encoded_prompt(learner: LanguageLearner, options: SampleOptions) -> Tensor:
    """The prompt's tokens (N,).

    Raises:
        OptionError: a character of it is no token.
    """
    try:
        return learner.data.tokenizer.encode(options.prompt or learner.data.prompt)
    except OptionError as error:
        raise OptionError(f"prompt: {error.got}", error.need, error.do) from error


@torch.no_grad()
def sample(learner: LanguageLearner, options: SampleOptions) -> tuple[str, str]:
    """A prompt and the text that goes on from it; the seed of the run draws the same one every time.

    Raises:
        OptionError: a character of the prompt is no token.
    """
    prompt_N = encoded_prompt(learner, options)
    tokens = prompt_N.tolist()
    generator = torch.Generator().manual_seed(learner.config.seed)
    with torch_threads(learner.config.threads or 1):
        for _ in range(options.tokens):
            window_1T = torch.tensor([tokens[-learner.config.context :]], dtype=torch.int)
            hidden_D = learner.model(window_1T)[0, -1]
            logits_V = learner.model.embedding.weight @ hidden_D
            tokens.append(_drawn(logits_V, options.temperature, generator))
    decode = learner.data.tokenizer.decode
    return decode(tokens[: len(prompt_N)]), decode(tokens[len(prompt_N) :])


def _drawn(logits_V: Tensor, temperature: float, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits_V.argmax())
    below_V = logits_V.double() - logits_V.max()  # ≤ 0, so that no temperature makes an infinity of the largest
    return int(torch.multinomial((below_V / temperature).softmax(0), 1, generator=generator))


def printable(text: str) -> str:
    r"""Text in which all that moves a cursor, rings a bell or turns the writing around is escaped.

    Line ends stay, tabs become four spaces.

    Example:
        >>> print(printable("a\tb\x1b[31m"))
        a    b\x1b[31m
    """
    return "".join(
        character if character.isprintable() or character == "\n" else _escaped(character)
        for character in text.replace("\t", "    ")
    )


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
