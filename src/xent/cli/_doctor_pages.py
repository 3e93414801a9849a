"""What `xent doctor` shows without a program: the rules, the page of one, the environment."""

from __future__ import annotations

import platform
import sys

import typer

_SEVERITIES = {"error": "error  ", "warning": "warning", "info": "info   "}


def show(list_rules: bool, explain: str | None, env: bool) -> int:
    """Print what was asked for."""
    if list_rules:
        _list_rules()
    if explain is not None:
        _explain(explain)
    if env:
        _environment()
    return 0


def _list_rules() -> None:
    from xent.inspection.checks._registry import all_rules

    rules = all_rules()
    widest = max(len(rule.slug) for rule in rules)
    for rule in rules:
        typer.echo(f"{rule.slug:<{widest}}  {_SEVERITIES[rule.severity]}  {rule.certainty:<9}  {rule.title}")


def _explain(slug: str) -> None:
    from xent.inspection.checks._pages import page_of
    from xent.inspection.checks._registry import rule_named

    text = page_of(rule_named(slug))
    if not sys.stdout.isatty():
        typer.echo(text)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console(width=min(Console().width, 100)).print(Markdown(text))


def _environment() -> None:
    import torch

    import xent
    from xent.backends import native

    lines = [
        ("xent", xent.__version__),
        (
            "torch",
            f"{torch.__version__} · {torch.get_num_threads()} threads · CUDA {torch.version.cuda or 'not built in'}",
        ),
        ("python", f"{platform.python_version()} · {platform.platform()}"),
        ("processor", torch.backends.cpu.get_cpu_capability()),
        ("devices", _devices()),
        ("kernels", native.description()),
    ]
    for name, text in lines:
        typer.echo(f"{name:<10} {text}")
    typer.echo("\nWhich backend would run cross_entropy of (4096, 32000) logits:")
    typer.echo(_choice())


def _choice() -> str:
    """Native is chosen where a wrong XENT_ISA makes it raise: nothing falls back in silence."""
    import torch

    import xent
    from xent.backends import native

    choice = xent.choices(torch.empty(1, 1).expand(4096, 32000), torch.zeros(4096, dtype=torch.int64))
    error = native.wrong_isa() if choice.chosen == "native" else None
    return str(choice) if error is None else f"cross_entropy: none, it raises {type(error).__name__}\n  {error}"


def _devices() -> str:
    import torch

    found = ["cpu"]
    if torch.cuda.is_available():
        found += [torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return " · ".join(found)
