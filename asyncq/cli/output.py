"""What commands print: tables, facts, JSON, and questions.

Ids, names, reasons and values come from messages, and messages from anybody. Nothing of theirs is
printed before it went through `asyncq.texts.plain`, or as JSON in ASCII.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import typer
from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from asyncq.cli.texts import complain
from asyncq.texts import plain

PIPE_WIDTH = 1000  # columns of a table that no terminal shows: programs want whole lines
UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


def print_json(value: Any) -> None:
    """One JSON document, in ASCII; bytes in it are Base64, moments ISO 8601."""
    print(json.dumps(msgspec.to_builtins(value, str_keys=True, enc_hook=repr)))


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> None:
    """A table as wide as it needs to be; where that is too wide for the terminal, cells wrap."""
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() else PIPE_WIDTH).print(table)


def print_line(head: str, rest: str) -> None:
    """One line, however long; its head stands out on a terminal."""
    line = Text.assemble((plain(head), "bold"), " " if head else "", plain(rest))
    Console(soft_wrap=True).print(line)


def print_facts(facts: Sequence[tuple[str, object]], *, title: str = "", err: bool = False) -> None:
    """Names and values, one pair to a line."""
    console = Console(stderr=err, soft_wrap=True)
    if title:
        console.print(Text(plain(title), style="bold"))
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        console.print(Text.assemble((f"{name:<{width}}  ", "dim"), plain(value)))


def print_traceback(text: str) -> None:
    """A traceback to standard error, line by line; in colour on a terminal."""
    console = Console(stderr=True, soft_wrap=True)
    *lines, last = text.splitlines() or [""]
    for line in lines:
        console.print(Text(plain(line), style="dim"))
    if last:
        console.print(Text(plain(last), style="bold red"))


class Progress:
    """How far a change of many things is, on one line of the terminal; none where there is none."""

    def __init__(self, done: str, total: int) -> None:
        self.count = 0
        self._done = done
        self._total = total
        self._shown = False

    def tell(self, count: int) -> None:
        """So many are changed by now."""
        self.count = count
        if sys.stderr.isatty() and count < self._total:
            self._shown = True
            print(f"\r{count} of {self._total} {self._done}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Take the line away."""
        if self._shown:
            self._shown = False
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def ask(question: str) -> None:
    """Go on only if the answer is yes; no answer is none. The question goes to standard error."""
    print(f"{plain(question)} [y/N] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):
        print(file=sys.stderr)
    if answer.strip().lower() not in {"y", "yes"}:
        complain("nothing was changed")
        raise typer.Exit(1)


def duration(seconds: float) -> str:
    """``4 s``, ``3 min``, ``2 h``, ``5 d``: one unit is enough to see what is old."""
    for length, unit in UNITS:
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
