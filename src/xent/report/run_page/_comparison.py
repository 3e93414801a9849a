"""Several runs' configurations, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_GROUPS = ("config", "versions", "machine")


def differences(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The settings that are not the same in all runs: of which group, their name, and each run's value or None."""
    if len(runs) < 2:
        return []
    found = []
    for group in _GROUPS:
        settings = [run["setup"][group] for run in runs]
        for name in dict.fromkeys(name for each in settings for name in each):
            values = [each.get(name) for each in settings]
            if len(set(values)) > 1:
                found.append({"group": group, "name": name, "values": values})
    return found
