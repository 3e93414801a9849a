"""What a training shows: a live view on a terminal, one plain line per epoch elsewhere, and a ruler at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from torch import Tensor

from xent.recipes._landmarks import Landmarks, perplexity

PARTS = ("train", "validation")
_STYLE = {"train": "cyan", "validation": "bold green"}
_MARK = {"train": "●", "validation": "○"}
_HEADER = (
    f"{'':>5}   {'── train ' + '─' * 21:<30}   {'── validation ' + '─' * 16:<30}\n"
    f"{'epoch':>5}" + f"   {'nats':>9}{'bits':>9}{'accuracy':>12}" * 2
)
_SECONDS_BETWEEN_FRAMES = 0.1


@dataclass
class Display:
    """Shows one training; a context manager around it.

    Attributes:
        console: where to.
        landmarks: what the losses are read against.
        num_epochs: the epoch to reach.
        latest: the last metrics shown: a line of metrics.jsonl, or that of epoch 0 before the first.
    """

    console: Console
    landmarks: Landmarks
    num_epochs: int
    latest: dict[str, Any]

    def __post_init__(self) -> None:
        self._live: Live | None = None
        self._shown_at = 0.0

    def __enter__(self) -> Display:
        if self.console.is_interactive and self.console.file.isatty():  # FORCE_COLOR makes a file "interactive"
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        else:
            self.console.out(_HEADER, highlight=False)
            self.console.out(_plain_line(self.latest), highlight=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def steps(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the batches of an epoch, showing how far it is."""
        for done, batch in enumerate(batches):
            self._refresh(done / len(batches))
            yield batch

    def epoch(self, metrics: dict[str, Any]) -> None:
        """Show the metrics of an epoch."""
        self.latest = metrics
        if self._live is None:
            self.console.out(_plain_line(metrics), highlight=False)
        self._refresh(0.0)

    def _refresh(self, share_of_epoch: float) -> None:
        if self._live and time.monotonic() - self._shown_at > _SECONDS_BETWEEN_FRAMES:
            self._shown_at = time.monotonic()
            self._live.update(self._frame(share_of_epoch), refresh=True)

    def _frame(self, share_of_epoch: float) -> Group:
        bar = Table.grid(padding=(0, 2))
        bar.add_row(
            f"epoch {self.latest['epoch']} of {self.num_epochs}",
            ProgressBar(total=self.num_epochs, completed=self.latest["epoch"] + share_of_epoch, width=40),
        )
        width = min(self.console.width, 80)
        return Group(bar, Text(), metrics_table(self.latest), Text(), ruler(self.latest, self.landmarks, width))


def metrics_table(metrics: dict[str, Any]) -> Table:
    """Loss in nats and bits, perplexity and accuracy of both sets."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("")
    smoothed = "smoothed_loss" in metrics["train"]
    for name in ("nats", "bits", "perplexity", "accuracy", *(["smoothed nats"] if smoothed else [])):
        table.add_column(name, justify="right")
    for part in PARTS:
        values = metrics[part]
        cells = [f"{values['loss']:.4f}", f"{values['bits']:.4f}", f"{perplexity(values['loss']):.4g}"]
        cells += [_percent(values["accuracy"])] + ([f"{values['smoothed_loss']:.4f}"] if smoothed else [])
        table.add_row(f"{_MARK[part]} {part}", *cells, style=_STYLE[part])
    return table


def ruler(metrics: dict[str, Any], landmarks: Landmarks, width: int) -> Text:
    """Both losses between 0 and ln C, on a line `width` columns wide, or 24 where that is too few."""
    losses = {part: metrics[part]["loss"] for part in PARTS}
    end = max(landmarks.guessing, *losses.values())
    num_cells = max(width - 14, 10)  # without "0 ├", "┤ " and the number at the end
    cells: list[tuple[str, str]] = [("─", "dim")] * num_cells
    cells[round(landmarks.guessing / end * (num_cells - 1))] = ("│", "dim")
    for part, loss in losses.items():
        cells[round(max(loss, 0.0) / end * (num_cells - 1))] = (_MARK[part], _STYLE[part])
    line = Text().append("0 ├", "dim")
    for character, style in cells:
        line.append(character, style)
    return line.append(f"┤ {end:.4f}", "dim").append("\n" + landmark_line(landmarks), "dim")


def landmark_line(landmarks: Landmarks) -> str:
    """The landmarks in words."""
    line = (
        f"{landmarks.guessing:.4f} = ln {landmarks.num_classes}, guessing · "
        f"{landmarks.label_prior:.4f} = entropy of the label prior"
    )
    return line + (f"\n{landmarks.floor:.4f} = least smoothed loss" if landmarks.floor else "")


def _plain_line(metrics: dict[str, Any]) -> str:
    values = (metrics[part] for part in PARTS)
    columns = (f"   {value['loss']:9.4f}{value['bits']:9.4f}{_percent(value['accuracy']):>12}" for value in values)
    return f"{metrics['epoch']:>5}" + "".join(columns)


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
