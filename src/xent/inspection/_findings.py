"""What is wrong with a loss: the checks line of its receipt. There are no rules yet, so that nothing is shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xent.inspection._explanation import Explanation


def findings(explanation: Explanation) -> Sequence[object]:
    """The mistakes that can be proved or suspected from an explanation; each is shown by its `str`."""
    del explanation
    return ()
