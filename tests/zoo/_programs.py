"""The programs of the zoo and what their own comments say about them.

In a program:
  `# expect: RULE`       on a line: the doctor names exactly this line for RULE
  `# expect-near: RULE`  on several lines, each of which the catalogue lets the finding name: it names one of them
  `# allow: RULE`        the doctor may name this line for RULE; another finding is the point
  `# exit: 1`            alone on a line: the program itself ends with this status
  `# ranks: 2`           it runs as this many processes, which find each other by RANK and WORLD_SIZE
  `# args: …`, `# stdin: …`  what the program is given
Several rules are separated by commas, several marks on one line by semicolons.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

ZOO = Path(__file__).parent
_MARK = re.compile(r"(expect|expect-near|allow): ([a-z0-9, -]+)")
_HEADER = re.compile(r"^# (exit|ranks|args|stdin): (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Program:
    """One script: its path, what it is given, and the findings that it states itself."""

    path: Path
    status: int = 0
    ranks: int = 1
    args: tuple[str, ...] = ()
    stdin: str = ""
    expected: frozenset[tuple[str, int]] = frozenset()
    near: dict[str, frozenset[int]] = field(default_factory=dict)
    allowed: frozenset[tuple[str, int]] = frozenset()

    @property
    def name(self) -> str:
        return self.path.relative_to(ZOO).with_suffix("").as_posix()

    @property
    def rules(self) -> set[str]:
        return {rule for rule, _ in self.expected} | set(self.near)


def read(path: Path) -> Program:
    text = path.read_text()
    header = dict(_HEADER.findall(text))
    marks = _marks(text)
    near: dict[str, set[int]] = defaultdict(set)
    for rule, line in marks["expect-near"]:
        near[rule].add(line)
    return Program(
        path=path,
        status=int(header.get("exit", "0")),
        ranks=int(header.get("ranks", "1")),
        args=tuple(header.get("args", "").split()),
        stdin=header.get("stdin", "").replace("\\n", "\n"),
        expected=frozenset(marks["expect"]),
        near={rule: frozenset(lines) for rule, lines in near.items()},
        allowed=frozenset(marks["allow"]),
    )


def _marks(text: str) -> dict[str, set[tuple[str, int]]]:
    marks: dict[str, set[tuple[str, int]]] = defaultdict(set)
    for number, line in enumerate(text.splitlines(), 1):
        _, _, comment = line.partition("  # ")
        for kind, rules in _MARK.findall(comment):
            marks[kind].update((rule.strip(), number) for rule in rules.split(","))
    return marks


def programs(folder: str) -> list[Program]:
    return [read(path) for path in sorted((ZOO / folder).rglob("*.py"))]
