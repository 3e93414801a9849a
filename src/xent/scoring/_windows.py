"""A text longer than the model's context as windows that predict each of its tokens once."""

from __future__ import annotations

from typing import NamedTuple

from xent.errors import OptionError


class Window(NamedTuple):
    """The model reads tokens[begin : end − 1]; tokens[first : end] are predicted and scored."""

    begin: int
    first: int
    end: int


def windows_of(num_tokens: int, context: int | None, stride: int | None) -> list[Window]:
    """Windows over a text of `num_tokens`; its first token is predicted by none.

    The first window scores `context` tokens, each later one the next `stride`, with at least context − stride tokens
    before them. With stride = context these are the windows of lm-evaluation-harness's rolling log-likelihood.

    Raises:
        OptionError: the text is longer than the context and there is no stride.
    """
    if num_tokens < 2:
        return []
    if context is None or num_tokens - 1 <= context:
        return [Window(0, 1, num_tokens)]
    if stride is None:
        raise OptionError(
            f"{num_tokens - 1:,} tokens to score and a context of {context:,}",
            "a longer text is read in windows",
            f"pass --stride, such as --stride {max(context // 2, 1)}",
        )
    windows = [Window(0, 1, context + 1)]
    while windows[-1].end < num_tokens:
        first = windows[-1].end
        end = min(first + stride, num_tokens)
        windows.append(Window(end - 1 - context, first, end))
    return windows
