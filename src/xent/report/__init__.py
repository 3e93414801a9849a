"""Result objects as text: a screen of a terminal, a cell of a notebook."""

from __future__ import annotations

from xent.report._receipt import Line, Receipt, RulerLine, Title
from xent.report._table import Column, ResultTable

__all__ = ["Column", "Line", "Receipt", "ResultTable", "RulerLine", "Title"]
