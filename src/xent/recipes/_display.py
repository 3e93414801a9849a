"""What a training shows: a live view on a terminal, one plain line per epoch elsewhere, and a ruler at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from xent.recipes._landmarks import Landmarks, TextLandmarks, perplexity
from xent.recipes._run_directory import PARTS

_STYLE = {"train": "cyan", "validation": "bold green"}
_MARK = {"train": "●", "validation": "○"}
_SECONDS_BETWEEN_FRAMES = 0.1
_RATE_WIDTH = 12
_MOST_WIDTH = 34  # of a part's measures in a plain line, so that it fits 80 columns

Metrics = Mapping[str, Any]  # a line of metrics.jsonl, or what was measured before the first
Item = TypeVar("Item")


@dataclass(frozen=True)
class Measure:
    """A number that metrics may have, and how it is shown.

    Attributes:
        title: above the number.
        key: its name in the metrics of a part.
        show: the number in characters.
        width: columns in a plain line; 0 where it is in the table only.
    """

    title: str
    key: str
    show: Callable[[float], str]
    width: int


def _four_digits(value: float) -> str:
    """1.100 below 1.101: a zero at the end is a digit too."""
    return f"{value:#.4g}".rstrip(".")


_MEASURES = (
    Measure("nats", "loss", "{:.4f}".format, 9),
    Measure("bits", "bits", "{:.4f}".format, 9),
    Measure("bits/byte", "bits_per_byte", "{:.4f}".format, 12),
    Measure("perplexity", "loss", lambda nats: _four_digits(perplexity(nats)), 0),
    Measure("accuracy", "accuracy", lambda share: f"{100 * share:.2f} %", 12),
    Measure("macro-F1", "macro_f1", lambda share: f"{100 * share:.2f} %", 10),
    Measure("smoothed nats", "smoothed_loss", "{:.4f}".format, 0),
    Measure("weighted", "weighted_loss", "{:.4f}".format, 0),
)


@dataclass
class Display:
    """Shows one training; a context manager around it.

    Attributes:
        console: where to.
        landmarks: what the losses are read against.
        num_epochs: the epoch to reach.
        latest: the last metrics shown: a line of metrics.jsonl, or that of epoch 0 before the first.
        tokens_per_step: of a recipe that counts its speed in tokens; None for one that does not.
        also: is given the metrics of every epoch too.
    """

    console: Console
    landmarks: Landmarks | TextLandmarks
    num_epochs: int
    latest: Metrics
    tokens_per_step: int | None = None
    also: Callable[[Metrics], None] | None = None

    def __post_init__(self) -> None:
        self._live: Live | None = None
        self._shown_at = 0.0
        self._tokens_per_second: float | None = None

    def __enter__(self) -> Display:
        if self.console.is_interactive and self.console.file.isatty():  # FORCE_COLOR makes a file "interactive"
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        else:
            rate = f"{'tokens/s':>{_RATE_WIDTH}}" if self.tokens_per_step else ""
            self.console.out(_header(self.latest) + rate, highlight=False)
            self.console.out(_plain_line(self.latest), highlight=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def steps(self, items: Sequence[Item]) -> Iterator[Item]:
        """Yield the steps of an epoch, showing how far it is."""
        began_at = time.monotonic()
        for done, item in enumerate(items):
            self._refresh(done / len(items))
            yield item
            if self.tokens_per_step:
                self._tokens_per_second = (done + 1) * self.tokens_per_step / (time.monotonic() - began_at)

    def epoch(self, metrics: Metrics) -> None:
        """Show the metrics of an epoch."""
        self.latest = metrics
        if self.also is not None:
            self.also(metrics)
        if self._live is None:
            self.console.out(_plain_line(metrics) + self._rate(_RATE_WIDTH), highlight=False)
        self._refresh(0.0)

    def _refresh(self, share_of_epoch: float) -> None:
        if self._live and time.monotonic() - self._shown_at > _SECONDS_BETWEEN_FRAMES:
            self._shown_at = time.monotonic()
            self._live.update(self._frame(share_of_epoch), refresh=True)

    def _frame(self, share_of_epoch: float) -> Group:
        bar = Table.grid(padding=(0, 2))
        rate = self._rate()
        bar.add_row(
            f"epoch {self.latest['epoch']} of {self.num_epochs}",
            ProgressBar(total=self.num_epochs, completed=self.latest["epoch"] + share_of_epoch, width=40),
            f"{rate} tokens/s" if rate else "",
        )
        width = min(self.console.width, 80)
        table = metrics_table(self.latest, self.landmarks)
        return Group(bar, Text(), table, Text(), ruler(self.latest, self.landmarks, width))

    def _rate(self, width: int = 0) -> str:
        return f"{self._tokens_per_second:>{width},.0f}" if self._tokens_per_second else ""


def metrics_table(metrics: Metrics, landmarks: Landmarks | TextLandmarks | None = None) -> Table:
    """Every measure of both parts, and of the baselines that the landmarks know."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("")
    measures = _measures_of(metrics)
    for measure in measures:
        table.add_column(measure.title, justify="right")
    for part in PARTS:
        cells = (measure.show(metrics[part][measure.key]) for measure in measures)
        table.add_row(f"{_MARK[part]} {part}", *cells, style=_STYLE[part])
    for name, values in landmarks.baselines().items() if isinstance(landmarks, TextLandmarks) else ():
        table.add_row(f"│ {name}", *(measure.show(values[measure.key]) for measure in measures), style="dim")
    return table


def ruler(metrics: Metrics, landmarks: Landmarks | TextLandmarks, width: int) -> Text:
    """Both losses between 0 and guessing, on a line `width` columns wide, or 24 where that is too few."""
    losses = {part: metrics[part]["loss"] for part in PARTS}
    end = max(*landmarks.marks, landmarks.guessing, *losses.values())
    num_cells = max(width - 14, 10)  # without "0 ├", "┤ " and the number at the end
    cells: list[tuple[str, str]] = [("─", "dim")] * num_cells
    for mark in landmarks.marks:
        cells[round(mark / end * (num_cells - 1))] = ("│", "dim")
    for part, loss in losses.items():
        cells[round(max(loss, 0.0) / end * (num_cells - 1))] = (_MARK[part], _STYLE[part])
    line = Text().append("0 ├", "dim")
    for character, style in cells:
        line.append(character, style)
    return line.append(f"┤ {end:.4f}", "dim").append("\n" + landmarks.in_words(), "dim")


def _measures_of(metrics: Metrics) -> list[Measure]:
    return [measure for measure in _MEASURES if measure.key in metrics["train"]]


def _line_measures_of(metrics: Metrics) -> list[Measure]:
    """Those of a plain line; bits, which follow from nats, are left to the table where they would not fit."""
    measures = [measure for measure in _measures_of(metrics) if measure.width]
    too_wide = sum(measure.width for measure in measures) > _MOST_WIDTH
    return [measure for measure in measures if not (too_wide and measure.key == "bits")]


def _header(metrics: Metrics) -> str:
    measures = _line_measures_of(metrics)
    width = sum(measure.width for measure in measures)
    titles = "".join(f"{measure.title:>{measure.width}}" for measure in measures)
    parts = "".join(f"   {f'── {part} ':─<{width}}" for part in PARTS)
    return f"{'':>5}{parts}\n{'epoch':>5}" + f"   {titles}" * len(PARTS)


def _plain_line(metrics: Metrics) -> str:
    measures = _line_measures_of(metrics)
    numbers = (
        "   " + "".join(f"{measure.show(metrics[part][measure.key]):>{measure.width}}" for measure in measures)
        for part in PARTS
    )
    return f"{metrics['epoch']:>5}" + "".join(numbers)
