"""What torchrun tells each process that it starts, in the environment; loads no torch."""

from __future__ import annotations

import os

from xent.errors import OptionError


def told_size() -> int:
    """How many processes there are; 1 where nobody says.

    Raises:
        OptionError: WORLD_SIZE is no number.
    """
    return told_number("WORLD_SIZE") if os.environ.get("WORLD_SIZE") else 1


def told_number(name: str) -> int:
    """The whole number in a variable of the environment.

    Raises:
        OptionError: it is not there, or none.
    """
    value = os.environ.get(name, "")
    if not value.isdecimal():
        size = os.environ.get("WORLD_SIZE")
        others = "" if name == "WORLD_SIZE" else f" and {name} is {value or 'not set'}"
        raise OptionError(
            f"WORLD_SIZE is {size}{others}",
            "processes that work together are started by torchrun",
            "torchrun --nproc-per-node 2 --no-python xent …, or unset WORLD_SIZE",
        )
    return int(value)
