"""What the options of every recipe share; loads no torch, so that the command line can show defaults at once."""

from __future__ import annotations

import hashlib
import json
import reprlib
from typing import Any

from xent.errors import OptionError

PATIENCE = 600  # seconds to wait for another process, where nothing else is asked for
FREE_ON_RESUME = ("epochs", "data")  # where to stop, and where the data is now; they decide no weight


class RunOptions:
    """Base of the options of a run: frozen dataclasses, checked when built, with `epochs`, `data` and `seed`."""

    epochs: int

    def to_dict(self) -> dict[str, Any]:
        """Every option with the value in use, ready for JSON."""
        raise NotImplementedError

    def fingerprint(self, data_sha256: str) -> str:
        """Hash of all that decides the weights after a given epoch: every option but where to stop, and the data."""
        deciding = {name: value for name, value in self.to_dict().items() if name not in FREE_ON_RESUME}
        return hashlib.sha256(json.dumps([deciding, data_sha256], sort_keys=True).encode()).hexdigest()


def check_type(name: str, value: object, need: str, types: type | tuple[type, ...]) -> None:
    """Refuse a value of another type.

    Raises:
        OptionError: `value` is none of `types`.
    """
    if not isinstance(value, types) or isinstance(value, bool):  # a bool is an int to Python
        raise OptionError(f"{name} is {reprlib.repr(value)}", f"it must be {need}", "pass one")


def check_count(name: str, value: int, largest: int, least: int = 1) -> None:
    """Refuse what is no whole number in [least, largest].

    Raises:
        OptionError: it is none.
    """
    check_type(name, value, "a whole number", int)
    if not least <= value <= largest:
        raise OptionError(
            f"{name} is {value}", f"it must lie in [{least:,}, {largest:,}]", "pass a count in that range"
        )


def check_seed(seed: int) -> None:
    """Refuse what torch takes for no seed.

    Raises:
        OptionError: `seed` is no whole number in [0, 2⁶³).
    """
    check_type("seed", seed, "a whole number", int)
    if not 0 <= seed < 2**63:
        raise OptionError(f"seed is {seed}", "it must lie in [0, 2^63)", "pass another, such as 0")


def check_one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    """Refuse a name that is not known.

    Raises:
        OptionError: `value` is none of `known`.
    """
    if value not in known:
        all_but_last = ", ".join(known[:-1])
        number = {2: "two", 3: "three"}[len(known)]
        raise OptionError(
            f"{name} is {reprlib.repr(value)}", f"it must be {all_but_last} or {known[-1]}", f"pass one of the {number}"
        )
