"""How many rows the batches of one line had, counted at every call: the only thing that every call is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from xent.inspection.examination._call_site import CallSite

SMALL = 4  # times fewer rows than usual
BEFORE = 2  # usual batches before a small one


@dataclass(eq=False)
class BatchSizes:
    """The training calls of one line: all of one size but for single small ones, or irregular.

    Attributes:
        site: the line.
        usual: rows of the first batch.
        run_length: batches of this size since the last small one.
        calls, num_small: of all, and of small ones.
        small: rows of a small one, 0 if there was none.
        irregular: whether sizes vary otherwise, or several losses enter one step, or none.
        num_backwards, num_steps: of the run, at the last call.
    """

    site: CallSite
    usual: int
    run_length: int = 0
    calls: int = 0
    small: int = 0
    num_small: int = 0
    irregular: bool = False
    num_backwards: int = -1
    num_steps: int = -1

    def add(self, rows: int, num_backwards: int, num_steps: int) -> None:
        """One more call, after so many backwards and steps."""
        self.calls += 1
        if num_backwards <= self.num_backwards or 0 < num_steps <= self.num_steps:  # 0 steps: moved by hand
            self.irregular = self.irregular or self.calls > 1
        self.num_backwards, self.num_steps = num_backwards, num_steps
        if rows == self.usual:
            self.run_length += 1
        elif rows * SMALL <= self.usual and self.run_length >= BEFORE and self.small in (0, rows):
            self.small, self.num_small, self.run_length = rows, self.num_small + 1, 0
        else:
            self.irregular = True
