"""`xent bench QUESTION`: the losses beside their peers, on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xent.cli._interrupts import Stopped, interrupts_held
from xent.errors import OptionError

if TYPE_CHECKING:
    from xent.bench.runner import Run

app = typer.Typer(invoke_without_command=True, help="Measure the losses beside their peers, on this machine.")


@app.callback(epilog="[dim]Example:[/dim]  xent bench cross-entropy --only 4096x32000")
def bench(context: typer.Context) -> None:
    """Measure the losses beside their peers, on this machine."""
    if context.invoked_subcommand is None:
        raise OptionError(
            "no question given",
            "the questions are: cross-entropy, linear",
            "pass one, such as xent bench cross-entropy --quick",
        )


_Only = Annotated[
    str,
    typer.Option(
        metavar="PATTERN", help="The case of that name; else those whose name contains it, or matches it with * and ?."
    ),
]
_Without = Annotated[list[str] | None, typer.Option(metavar="NAME", help="Leave a contestant out; can be repeated.")]
_With = Annotated[
    list[str] | None,
    typer.Option(
        "--with",
        metavar="NAME",
        help="Only this contestant, beside xent and the bare products; joins the results file. Can be repeated.",
    ),
]
_Quick = Annotated[bool, typer.Option("--quick", help="Small sizes, few rounds: shows that it works, not how fast.")]
_Threads = Annotated[int, typer.Option(metavar="N", min=0, help="Threads of every contestant. [dim]0: torch's[/dim]")]
_Seconds = Annotated[float | None, typer.Option(metavar="S", help="Time for the rounds of a contest.")]
_Rounds = Annotated[int, typer.Option(metavar="N", min=0, help="Least rounds of a contest. [dim]0: 3 or 5[/dim]")]
_Limit = Annotated[float, typer.Option(metavar="S", help="Time that one call may take; who is slower is reported so.")]
_Memory = Annotated[bool, typer.Option(help="Measure peak extra memory, each contestant in a fresh process.")]
_Time = Annotated[bool, typer.Option(help="Measure times; --no-time measures memory and gradient errors alone.")]
_Out = Annotated[Path, typer.Option(metavar="DIR", help="Where the results file is written.")]
_Json = Annotated[bool, typer.Option("--json", help="Print the results as JSON, progress to stderr.")]
_Check = Annotated[bool, typer.Option("--check", help="Exit with 1 where a requirement is not reached.")]


def _command(question: str, about: str) -> None:
    def ask(
        only: _Only = "",
        without: _Without = None,
        with_: _With = None,
        quick: _Quick = False,
        threads: _Threads = 0,
        seconds: _Seconds = None,
        rounds: _Rounds = 0,
        limit: _Limit = 60.0,
        memory: _Memory = True,
        time: _Time = True,
        out: _Out = Path("benchmarks/results"),
        as_json: _Json = False,
        check: _Check = False,
    ) -> int:
        with interrupts_held():
            names = {"without": tuple(without or ()), "only_with": tuple(with_ or ())}
            run = _prepared(
                question, threads, seconds, rounds,
                only=only, **names, quick=quick, limit=limit, memory=memory, time=time, out=out,
            )  # fmt: skip
        try:
            return _answer(run, as_json, check)
        except KeyboardInterrupt:
            raise Stopped(_kept(run)) from None

    ask.__doc__ = about
    example = f"[dim]Examples:[/dim]\n\n  xent bench {question} --quick\n\n  xent bench {question} --threads 2 --check"
    app.command(question, epilog=example)(ask)


_command(
    "cross-entropy",
    """Loss of given logits and its gradient, beside torch, torch.compile, optax, a read and a copy of the logits.

    Contestants take turns in one process; medians, ratios and memory go to a results file with the machine.
    """,
)
_command(
    "linear",
    """Linear layer and cross-entropy, beside the naive form, torch's own, cut-cross-entropy, optax and bare products.

    Contestants take turns in one process; medians, ratios and memory go to a results file with the machine.
    """,
)


def _prepared(question: str, threads: int, seconds: float | None, rounds: int, **settings: Any) -> Run:
    from dataclasses import replace

    from xent.bench import questions
    from xent.bench.machine import use_threads
    from xent.bench.runner import PACE, QUICK_PACE, Run, Settings

    if threads:
        use_threads(threads)
    asked = questions.named(question)
    pace = QUICK_PACE if settings["quick"] else PACE[question]
    if seconds is not None:
        pace = replace(pace, seconds=seconds)
    if rounds:
        pace = replace(pace, min_rounds=rounds, max_rounds=max(rounds, pace.max_rounds))
    return Run(asked, Settings(pace=pace, **settings))


def _answer(run: Run, as_json: bool, check: bool) -> int:
    from rich.console import Console

    from xent.bench.display import Display, opening
    from xent.bench.table import needs_table

    console = Console(stderr=as_json, highlight=False)
    for line in opening(run):
        console.print(line, markup=False)
    with Display(console, run.question.labels) as display:
        run.hold_all(display)
    console.print(needs_table(run.results))
    console.print(f"results    {run.path}", soft_wrap=True, markup=False)
    if as_json:
        typer.echo(json.dumps(run.results, indent=1, ensure_ascii=False))
    missed = [need for contest in run.held for need in contest["needs"] if need["reached"] is False]
    return 1 if check and missed else 0


def _kept(run: Run) -> str:
    return f"kept {len(run.held)} of {len(run.cases)} contests in {run.path}" if run.held else "no contest was over"
