"""`xent train RECIPE`: the recipes, each a command of its own."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import typer
from typer.core import TyperGroup

from xent.cli import _train_digits, _train_language_model, _train_text, _train_xor
from xent.errors import OptionError


class RecipeGroup(TyperGroup):
    """A group whose commands are recipes, and which names them when asked for another."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the recipe that `args` begins with.

        Raises:
            OptionError: there is none of that name.
        """
        name = args[0]
        if name in self.commands or name.startswith("-"):
            return super().resolve_command(ctx, args)
        known = ", ".join(sorted(self.commands))
        like = get_close_matches(name, self.commands, n=1)
        raise OptionError(
            f"there is no recipe {name!r}",
            f"the recipes are: {known}",
            f"did you mean xent train {like[0]}?" if like else "pass one of them, such as xent train digits",
        )


app = typer.Typer(cls=RecipeGroup, invoke_without_command=True, help="Train a small model with xent, on real data.")
app.command("digits", epilog=_train_digits.EPILOG)(_train_digits.digits)
app.command("language_model", epilog=_train_language_model.EPILOG)(_train_language_model.language_model)
app.command("text", epilog=_train_text.EPILOG)(_train_text.text)
app.command("xor", epilog=_train_xor.EPILOG)(_train_xor.xor)


@app.callback(epilog="[dim]Example:[/dim]  xent train digits --epochs 10")
def train(context: typer.Context) -> None:
    """Train a small model with xent, on real data."""
    if context.invoked_subcommand is None:
        raise OptionError(
            "no recipe given",
            "the recipes are: digits, language_model, text, xor",
            "pass one, such as xent train digits",
        )
