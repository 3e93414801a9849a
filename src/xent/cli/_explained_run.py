"""The validation rows of a trained run: their loss explained, and the digits drawn or the text shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import xent
from xent.errors import OptionError
from xent.inspection import Explanation
from xent.inspection._shown_rows import Names
from xent.inspection._tokens import visible
from xent.recipes._run_directory import recipe_of
from xent.recipes._text_tokens import TextTokens, windows_of
from xent.recipes._threads import torch_threads
from xent.recipes.digits import DigitsLearner
from xent.recipes.digits_runs import trained as trained_digits
from xent.recipes.language_model import LanguageLearner
from xent.recipes.language_model_runs import trained as trained_language_model
from xent.recipes.text import validation_logits
from xent.recipes.text_runs import trained as trained_text
from xent.report._digit_drawing import beside, drawn
from xent.report._numbers import number

_EACH, _EACH_TOKEN = 3, 5  # digits, and tokens, of each kind that are shown
_CONTEXT, _LONG_CONTEXT = 28, 160  # characters before a token, in a terminal and on a page
_LINE = 76  # characters of a text in a terminal
_MOST_TOKENS = 1 << 16  # that are explained; of more, the first
_ORDERS = ("worst", "best", "random")


@dataclass(frozen=True)
class ExplainedRun:
    """The loss of a run's validation rows.

    Attributes:
        explanation: of the loss.
        shown: its worst, best and some random rows as text.
        images: the digits, where the rows are some.
        page_names: names of classes and rows for a page, which has more room; None for the explanation's own.
    """

    explanation: Explanation
    shown: str
    images: Tensor | None = None
    page_names: Names | None = None

    def save(self, path: Path) -> None:
        """Write the page of the run."""
        names = self.page_names or self.explanation.names
        replace(self.explanation, names=names).save(path, images=self.images)


def of_run(path: Path) -> ExplainedRun:
    """The explanation of a run's validation loss, and its worst, best and some random rows.

    Raises:
        OptionError: `path` is no run of a recipe that is read here.
        DataError, RunError: a file of the run, or its data, is missing or damaged.
    """
    readers = {"digits": _of_digits, "text": _of_text, "language_model": _of_language_model}
    recipe = recipe_of(path)
    if recipe not in readers:
        raise OptionError(f"{path} is a run of {recipe}", f"runs of {', '.join(readers)} are explained", "pass one")
    return readers[recipe](path)


def _of_digits(path: Path) -> ExplainedRun:
    learner = trained_digits(path)
    with torch_threads(1), torch.no_grad():
        logits = learner.model(learner.data.validation.features)
    explanation = xent.explain(logits, learner.data.validation.labels)
    lines: list[str] = []
    for order in _ORDERS:
        records = explanation.rows(order, _EACH)
        lines += [f"{order} rows", *beside([_picture(learner, record) for record in records]), ""]
    return ExplainedRun(explanation, "\n".join(lines).rstrip(), images=learner.data.validation.features)


def _picture(learner: DigitsLearner, record: dict[str, Any]) -> list[str]:
    pixels = learner.data.validation.features[record["row"]]
    side = math.isqrt(len(pixels))
    said = f"{record['target']} read as {record['predicted']}"
    image = drawn(pixels.reshape(side, -1).tolist())
    return [*image, f"row {record['row']}: {said}", f"p {number(record['p'])}, {number(record['nats'])} nats"]


def _of_text(path: Path) -> ExplainedRun:
    learner = trained_text(path)
    rows_N, logits_NC = validation_logits(learner)
    texts = [learner.data.text(row, _LONG_CONTEXT) for row in rows_N.tolist()]
    names = learner.data.texts.label_names
    explanation = xent.explain(logits_NC, learner.data.labels(rows_N), class_names=names, row_names=texts)
    lines: list[str] = []
    for order in _ORDERS:
        lines += [f"{order} texts", *map(_text_line, explanation.rows(order, _EACH_TOKEN)), ""]
    return ExplainedRun(explanation, "\n".join(lines).rstrip())


def _text_line(record: dict[str, Any]) -> str:
    guess = "" if record["right"] else f", read as {record['predicted']} with {number(record['predicted_p'], 2)}"
    text = record["name"] if len(record["name"]) <= _LINE else record["name"][: _LINE - 1] + "…"
    return f"  {record['target']}: p {number(record['p'])}, {number(record['nats'])} nats{guess}\n    {text}"


def _of_language_model(path: Path) -> ExplainedRun:
    learner = trained_language_model(path)
    hidden_ND, targets_N = _hidden_states(learner)
    texts = [visible_text(learner.data, [token]) for token in range(learner.data.num_tokens)]
    contexts = Contexts(learner.data, len(targets_N), _CONTEXT)
    with torch_threads(learner.config.threads or 1):
        explanation = xent.explain(
            hidden_ND, targets_N, linear_weight=learner.model.embedding.weight, class_names=texts, row_names=contexts
        )
    lines: list[str] = []
    for order in _ORDERS:
        lines += [f"{order} tokens", *map(_token_line, explanation.rows(order, _EACH_TOKEN)), ""]
    long = Names(texts, Contexts(learner.data, len(targets_N), _LONG_CONTEXT))
    return ExplainedRun(explanation, "\n".join(lines).rstrip(), page_names=long)


@torch.no_grad()
def _hidden_states(learner: LanguageLearner) -> tuple[Tensor, Tensor]:
    """Hidden states (N, D) of the validation part, and the token (N,) that each predicts."""
    config, hidden, targets = learner.config, [], []
    most = min(config.max_validation_tokens or _MOST_TOKENS, _MOST_TOKENS)
    with torch_threads(config.threads or 1):
        for tokens_BT in windows_of(learner.data.validation, config.context, most):
            hidden_BTD = learner.model(tokens_BT.int())
            hidden.append(hidden_BTD[:, :-1].flatten(0, 1))
            targets.append(tokens_BT[:, 1:].flatten().long())
    return torch.cat(hidden), torch.cat(targets)


class Contexts(Sequence[str]):
    """For each row, the end of the text before the token that it predicts."""

    def __init__(self, data: TextTokens, count: int, characters: int) -> None:
        self._data, self._count, self._characters = data, count, characters

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, row: Any) -> str:
        tokens = self._data.validation[max(0, row + 1 - self._characters) : row + 1].tolist()
        text = visible_text(self._data, tokens)
        return text if len(text) <= self._characters else "…" + text[1 - self._characters :]


def visible_text(data: TextTokens, tokens: list[int]) -> str:
    """Tokens as text, with its whitespace visible; a byte that is no character alone as its number."""
    text = data.tokenizer.decode(tokens)
    if len(tokens) == 1 and "\ufffd" in text:
        return f"token {tokens[0]}"
    return visible(text)


def _token_line(record: dict[str, Any]) -> str:
    said = f"p {number(record['p'])}, {number(record['bits'], 2)} bits"
    guess = f", expected {record['predicted']} with {number(record['predicted_p'], 2)}"
    return f"  {record['name']:>{_CONTEXT}} → {record['target']:<8} {said}{'' if record['right'] else guess}"
